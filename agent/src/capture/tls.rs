//! Probes on the TLS libraries that the servers use, attached once for each inode.

use std::{collections::HashSet, path::PathBuf};

use aya::{
    Ebpf,
    programs::{ProgramError, UProbe, uprobe::UProbeScope},
};

use super::{
    load::{LoadError, program},
    refusal::probe_explained,
};

/// A file with OpenSSL's functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLibrary {
    /// `libcrypto`, which reads certificates; else `libssl`.
    pub is_crypto: bool,
    /// A path by which this very inode can be opened, also when it was deleted
    /// (`/proc/PID/map_files/…`).
    pub path: PathBuf,
    /// The name to show.
    pub name: String,
    pub device: u64,
    pub inode: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsProbeError {
    #[error("`{symbol}` of {library} cannot be probed{why}")]
    Symbol { library: String, symbol: &'static str, why: String, source: Box<ProgramError> },
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// Program, symbol, and whether the library may lack it.
type Probe = (&'static str, &'static str, bool);

const PROBES: [Probe; 9] = [
    ("ssl_call", "SSL_read", false),
    ("ssl_read_return", "SSL_read", false),
    ("ssl_call", "SSL_write", false),
    ("ssl_write_return", "SSL_write", false),
    ("ssl_call_ex", "SSL_read_ex", true),
    ("ssl_read_return", "SSL_read_ex", true),
    ("ssl_call_ex", "SSL_write_ex", true),
    ("ssl_write_return", "SSL_write_ex", true),
    ("ssl_free", "SSL_free", false),
];

const CERTIFICATE_PROBES: [Probe; 2] = [
    ("certificate_name", "X509_NAME_get_text_by_NID", false),
    ("certificate_name_return", "X509_NAME_get_text_by_NID", false),
];

pub(super) const PROGRAMS: [&str; 7] = [
    "ssl_call",
    "ssl_call_ex",
    "ssl_read_return",
    "ssl_write_return",
    "ssl_free",
    "certificate_name",
    "certificate_name_return",
];

/// Which libraries are probed.
#[derive(Default)]
pub struct Probes {
    attached: HashSet<(u64, u64)>,
}

/// Loads the programs; they are attached when a server with a library is found.
pub fn load(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in PROGRAMS {
        let probe: &mut UProbe = program(ebpf, name)?;
        probe.load().map_err(|source| LoadError::program(name, source))?;
    }
    Ok(())
}

impl Probes {
    pub fn attach(&mut self, ebpf: &mut Ebpf, library: &TlsLibrary) -> Result<(), TlsProbeError> {
        if self.attached.contains(&(library.device, library.inode)) {
            return Ok(());
        }
        let probes = if library.is_crypto { &CERTIFICATE_PROBES[..] } else { &PROBES };
        for (name, symbol, optional) in probes.iter().copied() {
            let probe: &mut UProbe = program(ebpf, name)?;
            let attached = probe.attach(symbol, &library.path, UProbeScope::AllProcesses);
            match attached {
                Err(source) if !optional => {
                    let library = library.name.clone();
                    return Err(TlsProbeError::Symbol {
                        library,
                        symbol,
                        why: probe_explained(&source),
                        source: Box::new(source),
                    });
                }
                _ => {}
            }
        }
        self.attached.insert((library.device, library.inode));
        Ok(())
    }
}
