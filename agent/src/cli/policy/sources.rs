//! Which policies are meant on a command line, and the loading of them.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::{
    config::{self, Settings},
    policy::{Complaints, Set, Source},
};

/// Which policies, for which site.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// Files of policies, or directories of `*.cedar`; by default what the configuration names
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    site: Site,
}

#[derive(Debug, Args)]
pub(super) struct Site {
    /// Take labels, regions and groups from this configuration; by default
    /// /etc/dbwarden/config.toml where there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave out the rules that dbwarden brings along
    #[arg(long)]
    no_starter_pack: bool,
}

/// What a site's rules are, or what is wrong with them.
pub(super) type Loaded = Result<Set, Complaints>;

impl Place {
    pub(super) fn load(&self) -> Result<Loaded> {
        self.site.load(&self.paths)
    }
}

impl Site {
    pub(super) fn settings(&self) -> Result<Settings> {
        Ok(config::load(self.config.as_deref())?)
    }

    /// The rules in `paths`, or where the configuration says.
    pub(super) fn load(&self, paths: &[PathBuf]) -> Result<Loaded> {
        let settings = self.settings()?;
        let mut sources: Vec<Source> = Vec::new();
        if paths.is_empty() {
            sources = config::policy_sources(&settings.policy.directory)?;
        }
        for path in paths {
            match path.is_dir() {
                true => sources.extend(config::policy_sources(path)?),
                false => sources.push(config::policy_source(path)?),
            }
        }
        let starter_pack = settings.policy.starter_pack && !self.no_starter_pack;
        Ok(Set::load(&sources, starter_pack, settings.world()))
    }
}
