//! What people read of a process: made from a life's raw bytes, and from procfs where those say nothing.

use std::{path::Path, sync::Arc};

use super::{
    super::{
        cgroup,
        command::command_line,
        image::Part,
        lineage::{parents, programs},
        login,
        procfs::{ProcDir, TICK_NS},
        users::Name,
    },
    Peer, ProcessTable,
    life::{Life, Memo},
};
use crate::event::{BootTime, Clock, Process};

impl ProcessTable {
    /// Makes what people read of one generation of a life.
    pub(super) fn describe(&mut self, life: &mut Life, peer: Peer, clock: Clock) -> Memo {
        let is_current = life.current.since <= peer.at;
        let (image, inherited) = match life.generation(peer.at) {
            Some(generation) => (generation.image.clone(), generation.inherited),
            None => (None, false),
        };
        let text =
            |part| image.as_ref().map(|image| image.part(part)).filter(|bytes| !bytes.is_empty());

        let exe = text(Part::Exe).filter(|path| is_plain(path));
        let kernel_cgroup = text(Part::Cgroup)
            .filter(|path| !(self.cgroups_v1 && *path == b"/"))
            .map(|path| Arc::from(String::from_utf8_lossy(path)));
        // No record tells what a child that executed nothing has changed since its fork.
        let lacks = inherited || exe.is_none() || kernel_cgroup.is_none();
        let dir = if lacks && is_current { self.open_live(life) } else { None };
        let own = if inherited { dir.as_ref().and_then(|dir| dir.snapshot().ok()) } else { None };
        let read_exe = match (&exe, &dir) {
            (None, Some(dir)) => dir.exe().ok().filter(|path| !path.is_empty()),
            _ => None,
        };
        if let Some(dir) = &dir
            && (inherited || kernel_cgroup.is_none())
            && let Some(cgroup) = dir.cgroup().ok().filter(|cgroup| !cgroup.is_empty())
        {
            life.cgroup = Some(cgroup.into());
        }
        let cgroup = if inherited { life.cgroup.clone().or(kernel_cgroup) } else { kernel_cgroup }
            .or_else(|| life.cgroup.clone())
            .or_else(|| self.ancestors_cgroup(life))
            .or_else(|| text(Part::Cgroup).map(|path| String::from_utf8_lossy(path).into()));

        let image = image.as_ref();
        let uid = peer.uid.or_else(|| match &own {
            Some(own) => own.uid,
            None => image.and_then(|image| image.uid),
        });
        let (login_uid, session) = match &own {
            Some(own) => (own.login_uid, own.session),
            None => (image.and_then(|i| i.login_uid), image.and_then(|i| i.session)),
        };
        let login_uid = login_uid.filter(|uid| *uid != u32::MAX);
        let tty = match &own {
            Some(own) => own.tty.clone(),
            None => tty_name(text(Part::Tty).unwrap_or_default()),
        };

        let mut pending = false;
        let mut name = |uid: Option<u32>| match self.users.name(uid?, peer.at) {
            Name::Known(name) => Some(name),
            Name::Nobody => None,
            Name::Pending => {
                pending = true;
                None
            }
        };
        let (os_user, login_user) = (name(uid), name(login_uid));
        let placement = cgroup.as_deref().map(cgroup::placement).unwrap_or_default();
        // The tick it began in: the same name however the process came to be known.
        let start = BootTime(life.start.0 / TICK_NS * TICK_NS);
        let exe = exe.or(read_exe.as_deref()).or_else(|| text(Part::Exe));
        let process = Process {
            pid: life.pid,
            start,
            process_start: clock.wall(start),
            exe: exe.map(|path| String::from_utf8_lossy(path).into()),
            command: text(Part::Args).and_then(command_line),
            comm: String::from_utf8_lossy(text(Part::Comm).unwrap_or_default()).into(),
            uid,
            os_user,
            login_uid,
            login_user,
            login_strength: login::strength(login_uid, cgroup.as_deref()),
            session: session.filter(|session| *session != u32::MAX),
            tty: (!tty.is_empty()).then(|| tty.into()),
            parents: parents(life.lineage.as_ref()),
            programs: programs(life.lineage.as_ref()),
            unit: placement.unit.map(Arc::from),
            container: placement.container.map(Arc::from),
            pod: placement.pod.map(Arc::from),
            cgroup,
        };
        let names_pending = pending.then(|| self.users.answers(peer.at));
        Memo { process: Arc::new(process), names_pending }
    }

    /// The process's directory, if this very life is still alive.
    fn open_live(&self, life: &Life) -> Option<ProcDir> {
        if life.exit.is_some() {
            return None;
        }
        let dir = self.procfs.open(life.pid).ok()?;
        dir.stat().ok().filter(|stat| life.is(stat.start(), 0)).map(|_| dir)
    }

    /// The cgroup of the nearest ancestor that has a known one: on a host with version 1 cgroups, the
    /// best that can be said of a process that is gone.
    fn ancestors_cgroup(&mut self, life: &Life) -> Option<Arc<str>> {
        for ancestor in life.lineage.as_ref()?.chain() {
            let index = self.lives.newest(ancestor.pid);
            let is_it = |index: &usize| self.lives[*index].starts_in_tick_of(ancestor.start);
            let Some(index) = index.filter(is_it) else { continue };
            if self.lives[index].cgroup.is_none()
                && let Some(dir) = self.open_live(&self.lives[index])
            {
                let cgroup = dir.cgroup().ok().filter(|cgroup| !cgroup.is_empty());
                self.lives[index].cgroup = cgroup.map(Arc::from);
            }
            if let Some(cgroup) = &self.lives[index].cgroup {
                return Some(cgroup.clone());
            }
        }
        None
    }
}

/// Whether an executed path names the file by itself: not relative, and not through a descriptor.
fn is_plain(path: &[u8]) -> bool {
    let path = Path::new(std::ffi::OsStr::new(match std::str::from_utf8(path) {
        Ok(path) => path,
        Err(_) => return path.starts_with(b"/"),
    }));
    path.is_absolute()
        && !path.starts_with("/dev/fd")
        && !path.starts_with("/proc")
        && !path.components().any(|part| part == std::path::Component::ParentDir)
}

/// The kernel's `pts3` as the device is called, `pts/3`.
fn tty_name(kernel: &[u8]) -> String {
    let name = String::from_utf8_lossy(kernel);
    match name.strip_prefix("pts") {
        Some(number) if number.starts_with(|c: char| c.is_ascii_digit()) => format!("pts/{number}"),
        _ => name.into_owned(),
    }
}
