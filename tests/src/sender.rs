//! Commands as somebody would run them: in a login session, a unit or a container, by way of another program.

use std::{path::Path, process::Command};

use crate::Cgroup;

/// `wrapper`, which ends in running what follows it, around `command`.
pub fn wrapped(wrapper: &[&str], command: &Command) -> Command {
    let (program, arguments) = wrapper.split_first().unwrap_or((&"env", &[]));
    let mut whole = Command::new(program);
    whole.args(arguments).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            whole.env(key, value);
        }
    }
    whole
}

/// `command` in a cgroup, with a login uid.
pub fn placed(group: Option<&Cgroup>, login: &str, command: &Command) -> Command {
    let enter = "if [ -n \"$1\" ]; then echo $$ >\"$1/cgroup.procs\"; fi\n\
                 if [ \"$(cat /proc/self/loginuid)\" != \"$2\" ]; then echo $2 >/proc/self/loginuid; fi\n\
                 shift 2; exec \"$@\"";
    let folder = group.map_or(String::new(), |group| group.path().display().to_string());
    wrapped(&["sh", "-ec", enter, "sh", &folder, login], command)
}

/// `program`, a shell, that starts `command` as its child and waits for it.
pub fn started_by(program: &Path, command: &Command) -> Command {
    wrapped(&[&program.display().to_string(), "-c", "\"$@\"; true", "x"], command)
}
