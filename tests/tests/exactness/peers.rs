//! Who is at the other end: of a server's socket, and of one that the server opened itself.

use anyhow::{Context, Result};
use dbwarden::capture::Opened;
use dbwarden_tests::need_root;

use crate::{
    connection::READ,
    mover::{Mover, Service},
    watched::{BOTH, Life, SERVER, Watched, await_life, everything, newest},
};

#[test]
fn who_is_at_the_other_end() -> Result<()> {
    need_root!();
    let this = std::process::id();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut unix = Service::start(&mut watched, "unix")?;
        let mut connection = unix.connect()?;
        connection.request(&mut unix.mover, &READ, 10, 1)?;
        let opened = newest(&mut watched)?;
        assert_eq!(opened.pid, unix.mover.pid());
        assert_eq!(opened.server, SERVER);
        assert!(opened.inbound);
        let (peer, key, uid) = opened.peer.context("no peer")?;
        assert_eq!((peer, uid), (this, 0));
        assert_ne!(key, 0);
        connection.finish(&mut unix.mover)?;

        let mut tcp = Service::start(&mut watched, "tcp")?;
        let mut connection = tcp.connect()?;
        connection.request(&mut tcp.mover, &READ, 10, 1)?;
        let opened = newest(&mut watched)?;
        let ends = opened.ends.context("no addresses")?;
        assert_eq!(ends.local, ("127.0.0.1".parse()?, tcp.port));
        assert_eq!(ends.mirrored().local.1, connection.port);
        let client = (this, connection.port);
        assert_eq!(watched.seen.clients.iter().filter(|&&one| one == client).count(), 1);
        connection.finish(&mut tcp.mover)?;
    }
    Ok(())
}

#[test]
fn what_a_server_reaches_out_to_is_reported_and_not_read() -> Result<()> {
    need_root!();
    for hooks in BOTH {
        let mut watched = Watched::start(everything(hooks))?;
        let mut service = Service::start(&mut watched, "tcp")?;
        // Not tracked: nothing of it is ever captured.
        let mut other = Mover::start()?;
        let port = other.ask("listen tcp")?;
        let (listener, port) = port.split_once(' ').context("no port")?;
        let path = service.folder.path().join("other").display().to_string();
        let unix = other.ask(&format!("listen {path}"))?;
        let unix = unix.split(' ').next().unwrap_or_default();

        let pid = service.mover.pid();
        let outbound = |watched: &mut Watched| -> Result<Vec<(u32, String)>> {
            let opened = std::mem::take(&mut watched.look()?.opened);
            assert!(opened.iter().all(|one| !one.inbound));
            let to = |one: &Opened| match one.ends {
                Some(ends) => ends.remote.1.to_string(),
                None => format!("{:?}", one.local),
            };
            Ok(opened.iter().map(|one| (one.pid, to(one))).collect())
        };
        service.mover.ask(&format!("connect tcp {port}"))?;
        assert_eq!(outbound(&mut watched)?, [(pid, port.to_owned())], "{hooks:?}");
        service.mover.ask(&format!("connect unix {path}"))?;
        let [(of, to)] = <[_; 1]>::try_from(outbound(&mut watched)?).ok().context("not one")?;
        assert!(of == pid && to.contains(&path), "{hooks:?}: {to}");

        // What the server runs is no server, but reaches out in its name.
        let program = format!("run {} tcp {port}", env!("CARGO_BIN_EXE_mover"));
        service.mover.ask(&program)?;
        let exec = watched.look()?.lives.iter().find_map(|life| match life {
            Life::Exec { pid, filename, args } if args.contains(port) => {
                Some((*pid, filename.clone(), args.clone()))
            }
            _ => None,
        });
        let (child, filename, args) = exec.context("no exec")?;
        assert_eq!(filename, env!("CARGO_BIN_EXE_mover"));
        assert_eq!(args, format!("{filename}\0tcp\0{port}\0"));
        assert_eq!(outbound(&mut watched)?, [(child, port.to_owned())], "{hooks:?}");
        await_life(&mut watched, &Life::Exit { pid: child })?;

        for listener in [listener, listener, unix] {
            let fd = other.number(&format!("accept {listener}"))?;
            assert_eq!(other.number(&format!("move {fd} read 0 0 9 1 0"))?, 3);
        }
        assert!(watched.look()?.flows.is_empty());
        assert!(watched.seen.opened.is_empty());
    }
    Ok(())
}
