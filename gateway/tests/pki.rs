//! `shardgate pki` as people use it: certificates for the nodes of a cluster, by a few commands.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Exit code, standard output, standard error.
fn pki(directory: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shardgate"));
    command.arg("pki").args(arguments).current_dir(directory).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the command runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

/// What a command that should succeed says.
fn done(directory: &Path, arguments: &[&str]) -> String {
    let (code, out, err) = pki(directory, arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
    out
}

/// What a command says that should fail with this code.
fn failed(directory: &Path, arguments: &[&str], expected: i32) -> String {
    let (code, out, err) = pki(directory, arguments);
    assert_eq!((code, out.as_str()), (Some(expected), ""), "{arguments:?}: {err}");
    err
}

fn init(directory: &Path) {
    done(directory, &["init", "--dir", "pki", "--cluster", "prod"]);
}

#[test]
fn the_commands_of_the_help_make_a_secure_cluster() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let help = done(directory, &["--help"]);
    let commands: Vec<&str> =
        help.lines().filter_map(|line| line.trim().strip_prefix("shardgate pki ")).collect();
    assert_eq!(commands.len(), 4, "{help}");
    for command in commands {
        let said = done(directory, &command.split_whitespace().collect::<Vec<&str>>());
        for file in said.lines().filter_map(|line| line.split_whitespace().next()) {
            let is_file = file.ends_with(".pem");
            assert!(!is_file || directory.join(file).is_file(), "{file} was told but not made");
        }
    }
    for node in ["gw-1", "gw-2", "gw-3"] {
        for (name, mode) in [(format!("{node}.pem"), 0o644), (format!("{node}-key.pem"), 0o600)] {
            let of = fs::metadata(directory.join("pki").join(&name)).expect("it was made");
            assert_eq!(of.permissions().mode() & 0o777, mode, "{name}");
        }
    }
    let key = fs::metadata(directory.join("pki/ca-key.pem")).expect("it was made");
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    let shown = done(directory, &["show", "pki/gw-2.pem"]);
    for line in [
        "role         node",
        "cluster      prod",
        "node         gw-2",
        "id           2",
        "names        shardgate://prod/gw-2/2, prod.cluster.shardgate.internal, gw-2, 10.0.0.2",
        "signed by    O=prod, CN=authority of the Shardgate cluster prod",
    ] {
        assert!(shown.contains(line), "{line} is missing in:\n{shown}");
    }
    assert!(!shown.contains("note:"), "{shown}");
    let shown = done(directory, &["show", "pki/ca.pem"]);
    assert!(shown.contains("role         authority of a cluster"), "{shown}");
}

#[test]
fn nothing_is_written_over() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    init(directory);
    let before = fs::read(directory.join("pki/ca-key.pem")).expect("it was made");
    let error = failed(directory, &["init", "--dir", "pki", "--cluster", "other"], 1);
    assert!(error.contains("pki/ca.pem exists already and is not written over"), "{error}");
    assert_eq!(fs::read(directory.join("pki/ca-key.pem")).expect("there"), before);
    done(directory, &["issue", "--dir", "pki", "--node", "gw-1"]);
    let error = failed(directory, &["issue", "--dir", "pki", "--node", "gw-1"], 1);
    assert!(error.contains("pki/gw-1.pem exists already"), "{error}");
}

#[test]
fn mistakes_are_told_with_what_is_allowed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    let error = failed(directory, &["issue", "--dir", "pki", "--node", "gw-1"], 1);
    assert!(error.contains("read the authority's certificate pki/ca.pem: No such file"), "{error}");
    let error = failed(directory, &["init", "--dir", "pki", "--cluster", "My Cluster"], 1);
    assert!(error.contains("\"My Cluster\" can't be a name in a certificate: use 1 to"), "{error}");
    assert!(!directory.join("pki").exists(), "nothing is left behind");
    init(directory);
    let issue = |more: &[&'static str], code| {
        let arguments = [&["issue", "--dir", "pki", "--node", "gw-1"], more].concat();
        failed(directory, &arguments, code)
    };
    let error = issue(&["--address", "10.0.0.1:7000"], 1);
    assert!(error.contains("\"10.0.0.1:7000\" can't be certified as an address"), "{error}");
    let error = issue(&["--id", "0"], 2);
    assert!(error.contains("0 is not in 1..=65535"), "{error}");
    let error = issue(&["--days", "0"], 2);
    assert!(error.contains("0 is not in 1..=36500"), "{error}");
    let error = failed(directory, &["show", "pki/ca-key.pem"], 1);
    assert!(error.contains("there is no certificate in pki/ca-key.pem"), "{error}");
    assert_eq!(pki(directory, &["show"]).0, Some(2));
    assert_eq!(pki(directory, &[]).0, Some(2));
}

#[test]
fn a_certificate_that_outlives_its_authority_or_ends_soon_is_remarked() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let directory = directory.path();
    done(directory, &["init", "--dir", "pki", "--cluster", "prod", "--days", "20"]);
    let said = done(directory, &["issue", "--dir", "pki", "--node", "gw-1"]);
    assert!(said.contains("note: the authority itself is good until 20"), "{said}");
    let said = done(directory, &["issue", "--dir", "pki", "--node", "gw-2", "--days", "9"]);
    assert!(!said.contains("note:"), "{said}");
    let shown = done(directory, &["show", "pki/gw-2.pem"]);
    // Whole days are told; a second may have gone by since.
    let is_told =
        |days| shown.contains(&format!("note: it expires in {days} days; issue the next"));
    assert!(is_told(8) || is_told(9), "{shown}");
    assert!(shown.contains("id           any"), "{shown}");
}
