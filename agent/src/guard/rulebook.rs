//! What the guard judges by, as the service has sent it.

use std::{sync::Arc, thread};

use super::{
    catalog::Catalogs,
    estimating::Bulk,
    judging::Judging,
    masking::{Detectors, Hiding, Pseudonyms},
    tls::Tls,
    wire::{Account, Channel, Rules},
};
use crate::{
    config::{self, OnLedgerDown, Settings},
    event::{Origin, in_full},
    pipeline::{self, places::Places},
    policy::{Complaints, STACK_BYTES, Set, Source},
    principal::{self, RuleError},
};

/// Never changed: another one takes its place as a whole.
pub(super) struct Rulebook {
    pub set: Arc<Set>,
    pub host: Arc<Origin>,
    /// By the places of the servers in the settings.
    pub places: Vec<Places>,
    /// Likewise; why a server that speaks TLS can't be stood in for.
    pub tls: Vec<Result<Option<Tls>, Arc<str>>>,
    /// Likewise.
    pub accounts: Vec<Option<Result<Account, String>>>,
    pub hiding: Arc<Hiding>,
    /// What is wrong with certificates, in words.
    pub lacks: Vec<String>,
    settings: Settings,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("the settings can't be read back: {0}")]
    Settings(#[from] config::Error),
    #[error("{0}")]
    Policies(#[from] Complaints),
    #[error("the rules for principals: {0}")]
    Principals(#[from] RuleError),
    #[error("the policies can't be loaded: no thread could be started for them")]
    Thread,
}

impl Rulebook {
    /// `before`: what it takes the place of.
    pub(super) fn new(rules: Rules, before: Option<&Self>) -> Result<Self, Unusable> {
        let settings = config::read_back(&rules.settings)?;
        principal::Rules::new(&settings.principals)?;
        let mut tls: Vec<Result<Option<Tls>, Arc<str>>> = Vec::new();
        let mut lacks = Vec::new();
        for (server, certificate) in settings.servers.iter().zip(&rules.certificates) {
            let name = server.name.as_deref().unwrap_or_default();
            let made = certificate.as_deref().map(Tls::new).transpose();
            let before = before.and_then(|book| book.tls.get(tls.len())).cloned();
            tls.push(match (made, before) {
                (Ok(made), _) => Ok(made),
                (Err(error), before) => {
                    let why = format!("TLS for {name}: {}", in_full(&error));
                    match before {
                        Some(Ok(Some(before))) => {
                            lacks.push(format!("{why}: the certificate of before stays"));
                            Ok(Some(before))
                        }
                        _ => Err(why.into()),
                    }
                }
            });
        }
        let hiding = Arc::new(Hiding {
            pseudonyms: Pseudonyms::new(&rules.mask_key.0),
            detectors: Detectors::new(&settings.guard.detectors),
        });
        let (world, starter_pack, accounts) =
            (settings.world(), rules.starter_pack, rules.accounts);
        let sources: Vec<Source> = rules
            .policies
            .into_iter()
            .map(|(name, text)| Source { name: name.as_ref().into(), text: text.as_ref().into() })
            .collect();
        let loading = thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || Set::load(&sources, starter_pack, world))
            .map_err(|_| Unusable::Thread)?;
        let set = loading.join().map_err(|_| Unusable::Thread)??;
        Ok(Self {
            set: Arc::new(set),
            host: Arc::new(pipeline::host(&settings.host)),
            places: settings.servers.iter().map(Places::new).collect(),
            tls,
            accounts,
            hiding,
            lacks,
            settings,
        })
    }

    /// Servers that speak TLS and can't be stood in for; why.
    pub(super) fn unusable(&self) -> Vec<(usize, String)> {
        let tls = self.tls.iter().enumerate();
        tls.filter_map(|(at, tls)| Some((at, tls.as_ref().err()?.to_string()))).collect()
    }

    /// Whether what can't be recorded is refused.
    pub(super) fn needs_ledger(&self, server: usize) -> bool {
        let server = self.settings.servers.get(server);
        server.is_none_or(|server| server.on_ledger_down == OnLedgerDown::Refuse)
    }

    pub(super) fn principals(&self) -> Result<principal::Rules, RuleError> {
        principal::Rules::new(&self.settings.principals)
    }

    pub(super) fn bulk(&self) -> Bulk {
        let guard = &self.settings.guard;
        Bulk { rows: guard.bulk_rows, percent: guard.bulk_percent }
    }

    pub(super) fn judging(
        &self,
        channel: Arc<Channel>,
        catalogs: Catalogs,
    ) -> Result<Judging, RuleError> {
        let (set, host) = (self.set.clone(), self.host.clone());
        let hiding = self.hiding.clone();
        Ok(Judging::new(set, host, self.principals()?, channel, catalogs, self.bulk(), hiding))
    }
}
