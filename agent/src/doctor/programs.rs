//! Judgements over the trial of the BPF programs: one line for each.

use std::error::Error;

use super::{Check, Verdict};
use crate::capture::{Attached, LoadError, Outcome, ProgramSet, Refused, Tried};

/// What came of trying the programs on this host; an error is about all of them.
pub type Trial = Result<Vec<Tried>, LoadError>;

/// Whether a set of programs does its work here. `None`: it couldn't be found out.
pub(super) fn works(trial: &Trial, set: ProgramSet) -> Option<bool> {
    let of_set = || trial.iter().flatten().filter(|tried| tried.set == set);
    let unclear = of_set().any(|tried| refused(tried).is_some_and(|it| it.for_lack_of_rights));
    let some = of_set().next().is_some();
    (some && !unclear).then(|| of_set().all(Tried::works))
}

/// A check for each program. Who is not root may have been refused what the service is granted; that he
/// lacks rights, and what to do, is said by the check of his capabilities.
pub(super) fn programs(trial: &Trial, root: bool) -> Vec<Check> {
    match trial {
        Ok(tried) => {
            let sockets = works(trial, ProgramSet::TpBtf).unwrap_or(false)
                || works(trial, ProgramSet::Syscalls).unwrap_or(false);
            tried.iter().map(|tried| program(tried, root, sockets).of_programs()).collect()
        }
        Err(error) => vec![none(error, root).of_programs()],
    }
}

/// What stands in the way of all programs is judged by the check that is about it; rights are judged here.
fn none(error: &LoadError, root: bool) -> Check {
    match error {
        LoadError::Object { .. } if root => Check::lacking("all", with_cause(error)),
        _ => Check::unknown("all", format!("not tried: {}", with_cause(error))),
    }
}

fn with_cause(error: &LoadError) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// `sockets`: at least one of the two sets of socket hooks works.
fn program(tried: &Tried, root: bool, sockets: bool) -> Check {
    let Tried { name, set, outcome } = tried;
    let (word, what_is_missed) = match set {
        ProgramSet::Lives => ("processes", ""),
        ProgramSet::TpBtf => ("tp_btf", "without it the system call hooks are used"),
        ProgramSet::Syscalls => ("syscalls", "only the fallback needs it"),
        ProgramSet::Tls => ("TLS", "without it TLS connections stay encrypted, not observable"),
    };
    let found = format!("{word}: {}", told(outcome));
    if tried.works() {
        return Check::fine(name, found);
    }
    if !root && refused(tried).is_some_and(|refused| refused.for_lack_of_rights) {
        return Check::unknown(name, found);
    }
    let verdict = match set {
        ProgramSet::Tls => Verdict::Notable,
        ProgramSet::TpBtf | ProgramSet::Syscalls if sockets => Verdict::Notable,
        _ => Verdict::Lacking,
    };
    let check = Check::new(name, verdict, found);
    if verdict == Verdict::Notable { check.costs(what_is_missed) } else { check }
}

fn refused(tried: &Tried) -> Option<&Refused> {
    match &tried.outcome {
        Outcome::Refused(refused)
        | Outcome::Accepted { attached: Attached::Refused(refused), .. } => Some(refused),
        _ => None,
    }
}

fn told(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused(refused) => format!("refused; {}", refused.why),
        Outcome::NotTried(why) => format!("not tried; {why}"),
        Outcome::Accepted { instructions, attached } => {
            let accepted = match instructions {
                Some(n) => format!("accepted ({n} instructions)"),
                None => "accepted".to_owned(),
            };
            match attached {
                Attached::Yes => format!("{accepted}, attached"),
                Attached::NotTried(why) => format!("{accepted}, {why}"),
                Attached::Refused(refused) => {
                    format!("{accepted}, but not attached; {}", refused.why)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(set: ProgramSet, outcome: Outcome) -> Tried {
        Tried { name: "probe", set, outcome }
    }

    fn accepted(attached: Attached) -> Outcome {
        Outcome::Accepted { instructions: Some(812), attached }
    }

    fn refusal(for_lack_of_rights: bool) -> Refused {
        Refused { why: "because".to_owned(), for_lack_of_rights }
    }

    #[test]
    fn each_outcome_has_its_verdict() {
        use ProgramSet::{Lives, Syscalls, Tls, TpBtf};
        use Verdict::{Fine, Lacking, Notable, Unknown};
        let (root, user) = (true, false);
        let verifiers = || Outcome::Refused(refusal(false));
        let rights = || Outcome::Refused(refusal(true));
        let absent = || Outcome::NotTried("no such tracepoint".to_owned());
        let half = || accepted(Attached::Refused(refusal(false)));
        for (set, outcome, who, expected, words) in [
            (Lives, accepted(Attached::Yes), root, Fine, "accepted (812 instructions), attached"),
            (Tls, accepted(Attached::NotTried("spare")), root, Fine, "(812 instructions), spare"),
            (Lives, verifiers(), root, Lacking, "processes: refused; because"),
            (Lives, rights(), root, Lacking, "refused; because"),
            (Lives, rights(), user, Unknown, "refused; because"),
            (Lives, verifiers(), user, Lacking, "refused; because"),
            (Tls, half(), root, Notable, "but not attached; because"),
            (TpBtf, verifiers(), root, Lacking, "tp_btf: refused"),
            (Syscalls, absent(), root, Lacking, "syscalls: not tried; no such tracepoint"),
        ] {
            let checks = programs(&Ok(vec![tried(set, outcome)]), who);
            let [check] = checks.as_slice() else { panic!("{checks:?}") };
            assert_eq!(check.verdict, expected, "{check:?}");
            assert!(check.found.contains(words), "{check:?}");
        }
    }

    #[test]
    fn one_set_of_socket_hooks_is_enough() {
        let check = |typed: Outcome, syscalls: Outcome, expected: [Verdict; 2]| {
            let trial =
                Ok(vec![tried(ProgramSet::TpBtf, typed), tried(ProgramSet::Syscalls, syscalls)]);
            let verdicts: Vec<Verdict> =
                programs(&trial, true).iter().map(|check| check.verdict).collect();
            assert_eq!(verdicts, expected, "{trial:?}");
        };
        let bad = || Outcome::Refused(refusal(false));
        let good = || accepted(Attached::Yes);
        check(good(), good(), [Verdict::Fine, Verdict::Fine]);
        check(bad(), good(), [Verdict::Notable, Verdict::Fine]);
        check(good(), bad(), [Verdict::Fine, Verdict::Notable]);
        check(bad(), bad(), [Verdict::Lacking, Verdict::Lacking]);
    }

    #[test]
    fn what_keeps_all_programs_away_is_said_once() {
        let checks = programs(&Err(LoadError::NoObject), true);
        let [check] = checks.as_slice() else { panic!("{checks:?}") };
        assert_eq!(check.verdict, Verdict::Unknown);
        assert!(check.found.contains("built without its BPF programs"), "{check:?}");
        assert_eq!(works(&Err(LoadError::NoObject), ProgramSet::TpBtf), None);
    }
}
