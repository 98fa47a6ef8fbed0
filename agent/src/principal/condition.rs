//! One condition of a rule: which fact it asks about, and what meets it.

use std::borrow::Cow;

use super::{
    network::Network,
    pattern::Pattern,
    program::{Hit, Programs},
    subject::{Subject, owner},
};
use crate::event::{Client, LoginStrength, Process, Strength};

/// Of several words one is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    OsUser(Vec<Pattern>),
    Uid(Vec<u32>),
    LoginUser(Vec<Pattern>),
    LoginUid(Vec<u32>),
    Unit(Vec<Pattern>),
    Container(Vec<Pattern>),
    Pod(Vec<Pattern>),
    Exe(Vec<Pattern>),
    Command(Vec<Pattern>),
    /// The process or one of its ancestors.
    Program(Programs),
    /// One of its ancestors.
    Parents(Programs),
    ClientAddress(Vec<Network>),
    DbUser(Vec<Pattern>),
    Application(Vec<Pattern>),
    Certificate(Vec<Pattern>),
    Claim(Box<str>, Vec<Pattern>),
}

/// What a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// What the process with this pid runs, of the client and its ancestors.
    Program(Option<u32>),
    /// Where it runs.
    Place,
    /// For whom.
    User,
    Network,
    Application,
    Claims,
}

/// What the whole rule says, as far as its conditions must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// It trusts whom it matches.
    pub raises: bool,
    /// It asks for a unit, a container or a pod.
    pub names_place: bool,
}

/// What met a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub value: Cow<'a, str>,
    pub strength: Strength,
}

impl Condition {
    /// The record's word for what is asked about.
    pub fn fact(&self) -> &'static str {
        match self {
            Self::OsUser(_) => "os_user",
            Self::Uid(_) => "uid",
            Self::LoginUser(_) => "login_user",
            Self::LoginUid(_) => "login_uid",
            Self::Unit(_) => "unit",
            Self::Container(_) => "container",
            Self::Pod(_) => "pod",
            Self::Exe(_) => "exe",
            Self::Command(_) => "command",
            Self::Program(_) => "program",
            Self::Parents(_) => "parents",
            Self::ClientAddress(_) => "client_address",
            Self::DbUser(_) => "db_user",
            Self::Application(_) => "application",
            Self::Certificate(_) => "certificate",
            Self::Claim(..) => "claims",
        }
    }

    /// What of this client it is about; it is met.
    pub fn topic(&self, subject: &Subject<'_>) -> Topic {
        match self {
            Self::Exe(_) | Self::Command(_) => {
                Topic::Program(subject.process().map(|process| process.pid))
            }
            Self::Program(_) | Self::Parents(_) => {
                Topic::Program(self.hit(subject).map(|hit| hit.pid))
            }
            Self::Unit(_) | Self::Container(_) | Self::Pod(_) => Topic::Place,
            Self::OsUser(_)
            | Self::Uid(_)
            | Self::LoginUser(_)
            | Self::LoginUid(_)
            | Self::DbUser(_)
            | Self::Certificate(_) => Topic::User,
            Self::ClientAddress(_) => Topic::Network,
            Self::Application(_) => Topic::Application,
            Self::Claim(..) => Topic::Claims,
        }
    }

    pub fn names_place(&self) -> bool {
        matches!(self, Self::Unit(_) | Self::Container(_) | Self::Pod(_))
    }

    /// The program by which it is met.
    pub fn hit<'a>(&self, subject: &Subject<'a>) -> Option<Hit<'a>> {
        match self {
            Self::Program(programs) => programs.find(subject.process()?, false),
            Self::Parents(programs) => programs.find(subject.process()?, true),
            _ => None,
        }
    }

    /// What meets it; `None` if nothing does.
    pub fn find<'a>(&self, subject: &Subject<'a>, context: Context) -> Option<Found<'a>> {
        let process = subject.process();
        let (value, strength) = match self {
            Self::OsUser(words) => {
                let process = on_host(process?, context)?;
                (one_of(words, process.os_user.as_deref())?, Strength::Strong)
            }
            Self::Uid(uids) => {
                let uid = on_host(process?, context)?.uid.filter(|uid| uids.contains(uid))?;
                return Some(Found::number(uid, Strength::Strong));
            }
            Self::LoginUser(words) => {
                (one_of(words, logged_in(process?)?.login_user.as_deref())?, Strength::Strong)
            }
            Self::LoginUid(uids) => {
                let uid = logged_in(process?)?.login_uid.filter(|uid| uids.contains(uid))?;
                return Some(Found::number(uid, Strength::Strong));
            }
            Self::Unit(words) => {
                let unit = process?.unit.as_deref()?;
                let of_user = owner(unit).is_some();
                let meant = |word: &&Pattern| !of_user || word.as_written().starts_with("user@");
                let word = words.iter().filter(meant).find(|word| word.matches(unit));
                // What stands behind the user's own manager, he has named himself.
                let strength = if of_user { Strength::Weak } else { Strength::Strong };
                (word.map(|_| unit)?, strength)
            }
            Self::Container(words) => {
                (one_of(words, by_root(process?)?.container.as_deref())?, Strength::Strong)
            }
            Self::Pod(words) => {
                (one_of(words, by_root(process?)?.pod.as_deref())?, Strength::Strong)
            }
            Self::Exe(words) => (one_of(words, process?.exe.as_deref())?, Strength::Weak),
            Self::Command(words) => (one_of(words, process?.command.as_deref())?, Strength::Claim),
            Self::Program(_) | Self::Parents(_) => {
                let Hit { pid, told_by, strength, .. } = self.hit(subject)?;
                let value = Cow::Owned(format!("{told_by} (pid {pid})"));
                return Some(Found { value, strength });
            }
            Self::ClientAddress(networks) => {
                // Everybody on this host has the host's addresses.
                let Client::Remote { address, .. } = subject.client else { return None };
                networks.iter().find(|network| network.contains(*address))?;
                let value = Cow::Owned(address.to_canonical().to_string());
                return Some(Found { value, strength: Strength::Strong });
            }
            Self::DbUser(words) => {
                let proven = subject.db_user_proven;
                let user = subject.db_user.filter(|_| proven || !context.raises);
                let strength = if proven { Strength::Strong } else { Strength::Claim };
                (one_of(words, user)?, strength)
            }
            Self::Application(words) => (one_of(words, subject.application)?, Strength::Claim),
            Self::Certificate(words) => (one_of(words, subject.certificate)?, Strength::Strong),
            Self::Claim(name, words) => {
                let value = one_of(words, subject.claims?.tag(name))?;
                let value = Cow::Owned(format!("{name}={value}"));
                return Some(Found { value, strength: Strength::Claim });
            }
        };
        Some(Found { value: Cow::Borrowed(value), strength })
    }
}

impl Found<'_> {
    fn number(number: u32, strength: Strength) -> Self {
        Self { value: Cow::Owned(number.to_string()), strength }
    }
}

fn one_of<'a>(words: &[Pattern], value: Option<&'a str>) -> Option<&'a str> {
    value.filter(|value| words.iter().any(|word| word.matches(value)))
}

/// A uid inside of a container is one of the container's, whatever it is called on the host.
fn on_host(process: &Process, context: Context) -> Option<&Process> {
    (process.container.is_none() || context.names_place).then_some(process)
}

/// A login uid counts only in a login session of its user.
fn logged_in(process: &Process) -> Option<&Process> {
    (process.login_strength == LoginStrength::Strong).then_some(process)
}

/// For the containers of a user's own engine only that user vouches.
fn by_root(process: &Process) -> Option<&Process> {
    process.unit.as_deref().and_then(owner).is_none().then_some(process)
}
