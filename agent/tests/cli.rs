//! The binary as scripts see it: exit codes, and which words go where.

use std::{path::Path, process::Command};

/// Exit code, standard output, standard error.
fn dbwarden(arguments: &[&str]) -> anyhow::Result<(Option<i32>, String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_dbwarden")).args(arguments).output()?;
    let (stdout, stderr) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    Ok((output.status.code(), stdout, stderr))
}

#[test]
fn each_sort_of_failure_has_its_code_and_its_words() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let typo = write("typo.toml", "[capture]\nring_byte = 1\n");
    let good = write("good.toml", "[host]\nname = \"orders-1\"\n");
    let absent = directory.path().join("absent.sock").to_str().unwrap().to_owned();

    for (arguments, code, out, err) in [
        (vec!["run", "--config", &good, "--print-config"], 0, "name = \"orders-1\"", ""),
        (
            vec!["run", "--config", &good, "--hooks", "syscalls", "--print-config"],
            0,
            "hooks = \"syscalls\"",
            "",
        ),
        (vec!["run", "--config", &typo], 2, "", "typo.toml:2: unknown key `ring_byte`"),
        (vec!["run", "--config", "/nonexistent"], 2, "", "No such file"),
        (vec!["run", "--hooks", "fentry"], 2, "", "possible values: auto, tp_btf, syscalls"),
        (vec!["watch", "--min-duration", "fast"], 2, "", "write 250us, 15ms, 1.5s or 2m"),
        (vec!["frobnicate"], 2, "", "unrecognized subcommand"),
        (vec!["status", "--control", &absent], 3, "", "is the service running"),
        (vec!["watch", "--control", &absent], 3, "", "is the service running"),
    ] {
        let (given, stdout, stderr) = dbwarden(&arguments).unwrap();
        assert_eq!(given, Some(code), "{arguments:?}: {stderr}");
        assert!(stdout.contains(out), "{arguments:?}: {stdout}");
        assert!(stderr.contains(err), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{arguments:?}: {stderr}");
    }
    assert!(!Path::new(&absent).exists());
}

#[test]
fn doctor_answers_in_lines_of_json_when_piped() {
    let (code, stdout, _) = dbwarden(&["doctor"]).unwrap();
    let checks: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lacks = checks.iter().any(|check| check["verdict"] == "lacking");
    assert_eq!(code, Some(i32::from(lacks)));
    assert!(checks.iter().any(|check| check["name"] == "kernel"));
}
