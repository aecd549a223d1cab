//! Authorities and certificates in files, and what is said about those that are no good.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use shardgate_replicate::pki::{
    AUTHORITY_DAYS, Authority, Certificate, Expected, Fault, NODE_DAYS, NodeFiles, NodeRequest,
    PkiError, Validity, check,
};
use shardgate_replicate_proto::identity::NodeId;
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn init(directory: &Path) -> Authority {
    Authority::init(directory, "prod", Validity::days(AUTHORITY_DAYS)).expect("a new directory")
}

fn request(name: &str) -> NodeRequest {
    NodeRequest {
        name: name.to_owned(),
        node: Some(NodeId(1)),
        addresses: vec!["10.1.2.3".to_owned(), "gw.example.com".to_owned(), "::1".to_owned()],
        validity: Validity::days(NODE_DAYS),
    }
}

fn issue(directory: &Path, request: &NodeRequest) -> NodeFiles {
    let issued = Authority::load(directory).expect("an authority").issue(request);
    issued.expect("a sound request").write(directory).expect("new files")
}

fn expected() -> Expected {
    Expected { cluster: "prod".to_owned(), name: "gw-1".to_owned(), node: NodeId(1) }
}

fn faults(files: &NodeFiles, expected: &Expected) -> Vec<String> {
    check(files, expected, SystemTime::now()).iter().map(Fault::to_string).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o7777
}

/// One sentence, with these words.
fn only(faults: &[String], words: &[&str]) {
    let [fault] = faults else { panic!("one fault: {faults:#?}") };
    assert!(words.iter().all(|word| fault.contains(word)), "{fault}");
}

#[test]
fn an_authority_and_a_certificate_take_two_calls_and_are_good() {
    let directory = directory();
    let authority = init(directory.path());
    assert_eq!(authority.cluster(), "prod");
    let (certificate, key) = Authority::files(directory.path());
    assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o600));
    let files = issue(directory.path(), &request("gw-1"));
    assert_eq!((mode(&files.certificate), mode(&files.key)), (0o644, 0o600));
    assert_eq!(faults(&files, &expected()), Vec::<String>::new());
}

#[test]
fn a_certificate_says_whose_it_is() {
    let directory = directory();
    init(directory.path());
    let files = issue(directory.path(), &request("gw-1"));
    let node = Certificate::read(&files.certificate).expect("a certificate");
    let identity = node.identity.clone().expect("a node's");
    assert_eq!(identity.to_string(), "shardgate://prod/gw-1/1");
    assert!(!node.is_authority);
    for name in ["gw-1", "10.1.2.3", "gw.example.com", "::1"] {
        assert!(node.names.iter().any(|it| it == name), "{name}: {:?}", node.names);
    }
    assert_eq!(node.fingerprint.len(), 64);
    let text = node.to_string();
    for line in ["role         node", "cluster      prod", "node         gw-1", "id           1"] {
        assert!(text.contains(line), "{line} is missing in:\n{text}");
    }
    let authority = Certificate::read(&files.authority).expect("a certificate");
    assert!(authority.is_authority && authority.identity.is_none());
    assert_eq!(authority.cluster.as_deref(), Some("prod"));
    assert!(authority.to_string().contains("authority of a cluster"), "{authority}");
}

#[test]
fn nothing_is_written_over() {
    let directory = directory();
    init(directory.path());
    let (certificate, key) = Authority::files(directory.path());
    let before = (fs::read(&certificate).expect("read"), fs::read(&key).expect("read"));
    let again = Authority::init(directory.path(), "prod", Validity::days(1)).expect_err("there");
    assert!(matches!(&again, PkiError::Exists(path) if *path == certificate), "{again}");
    fs::remove_file(&certificate).expect("removed");
    let again = Authority::init(directory.path(), "prod", Validity::days(1)).expect_err("there");
    assert!(matches!(&again, PkiError::Exists(path) if *path == key), "{again}");
    assert!(!certificate.exists(), "nothing is written beside the old key");
    fs::write(&certificate, &before.0).expect("written");
    let files = issue(directory.path(), &request("gw-1"));
    let second = Authority::load(directory.path()).expect("there").issue(&request("gw-1"));
    let error = second.expect("sound").write(directory.path()).expect_err("there");
    assert!(matches!(&error, PkiError::Exists(path) if *path == files.certificate), "{error}");
    assert_eq!(fs::read(&key).expect("read"), before.1);
}

#[test]
fn names_that_no_certificate_can_bear_are_refused() {
    let authority = Authority::create("prod", Validity::days(1)).expect("an authority");
    for name in ["", "GW", "gw_1", "-gw", "gw-", &"x".repeat(64)] {
        assert!(matches!(authority.issue(&request(name)), Err(PkiError::Name(_))), "{name:?}");
        assert!(matches!(Authority::create(name, Validity::days(1)), Err(PkiError::Name(_))));
    }
    let mut wrong = request("gw-1");
    wrong.addresses = vec!["10.0.0.1:9000".to_owned()];
    let error = authority.issue(&wrong).expect_err("a port is no part of an address");
    assert!(error.to_string().contains("\"10.0.0.1:9000\" can't be certified"), "{error}");
    let mut wrong = request("gw-1");
    wrong.validity.until = wrong.validity.from;
    assert!(matches!(authority.issue(&wrong), Err(PkiError::Validity { .. })));
}

#[test]
fn what_time_does_to_a_certificate_is_told() {
    let directory = directory();
    init(directory.path());
    let now = SystemTime::now();
    let of = |name: &str, from: SystemTime, until: SystemTime| {
        let validity = Validity { from, until };
        issue(directory.path(), &NodeRequest { validity, ..request(name) })
    };
    let named = |name: &str| Expected { name: name.to_owned(), ..expected() };
    let old = of("old", now - DAY * 9, now - DAY);
    only(&faults(&old, &named("old")), &["the certificate expired on 20", "shardgate pki issue"]);
    let early = of("early", now + DAY, now + DAY * 90);
    only(&faults(&early, &named("early")), &["valid only from 20", "clocks"]);
    let late = of("late", now - DAY, now + DAY * 5);
    let found = check(&late, &named("late"), now);
    assert!(matches!(&found[..], [fault @ Fault::ExpiresSoon(_)] if fault.is_warning()));
}

#[test]
fn what_belongs_to_somebody_else_is_told() {
    let (ours, theirs) = (directory(), directory());
    init(ours.path());
    init(theirs.path());
    let files = issue(ours.path(), &request("gw-1"));
    let other = issue(ours.path(), &request("gw-2"));
    let foreign = issue(theirs.path(), &request("gw-1"));

    let expected = expected();
    let mixed = NodeFiles { authority: foreign.authority.clone(), ..files.clone() };
    only(&faults(&mixed, &expected), &["not signed by the authority that it names"]);
    let mixed = NodeFiles { key: other.key.clone(), ..files.clone() };
    only(&faults(&mixed, &expected), &["the key does not belong to the certificate", "gw-1.pem"]);
    only(&faults(&other, &expected), &["for the node \"gw-2\"", "called \"gw-1\""]);
    let third = Expected { node: NodeId(3), ..expected.clone() };
    only(&faults(&files, &third), &["it is for node 1", "has id 3"]);
    let elsewhere = Expected { cluster: "test".to_owned(), ..expected.clone() };
    let found = faults(&files, &elsewhere).join("; ");
    assert!(found.contains("it is for cluster \"prod\", but the node belongs to \"test\""));
    let (certificate, key) = Authority::files(ours.path());
    let authority = NodeFiles { certificate, key, ..files };
    let found = faults(&authority, &expected).join("; ");
    assert!(found.contains("the authority's own"), "{found}");
    assert!(found.contains("it names no node of a cluster"), "{found}");
}

#[test]
fn an_authority_of_another_name_is_unknown() {
    let directory = directory();
    let other = self::directory();
    init(directory.path());
    Authority::init(other.path(), "test", Validity::days(9)).expect("a new directory");
    let files = issue(directory.path(), &request("gw-1"));
    let mixed = NodeFiles { authority: Authority::files(other.path()).0, ..files };
    only(&faults(&mixed, &expected()), &["not signed by this cluster's authority"]);
}

#[test]
fn files_that_are_no_good_are_named() {
    let directory = directory();
    init(directory.path());
    let files = issue(directory.path(), &request("gw-1"));
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o640)).expect("ours");
    only(&faults(&files, &expected()), &["gw-1-key.pem (mode 0640)", "chmod 600"]);
    fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("ours");

    let missing = NodeFiles { certificate: directory.path().join("none.pem"), ..files.clone() };
    only(&faults(&missing, &expected()), &["read the node's certificate", "none.pem"]);
    let swapped = NodeFiles { certificate: files.key.clone(), ..files.clone() };
    only(&faults(&swapped, &expected()), &["there is no node's certificate in", "gw-1-key.pem"]);
    let garbage = directory.path().join("garbage.pem");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(&garbage, broken).expect("written");
    let error = Certificate::read(&garbage).expect_err("garbage").to_string();
    assert!(error.contains("it is no X.509 certificate"), "{error}");
    let unusable = NodeFiles { authority: garbage, ..files.clone() };
    only(&faults(&unusable, &expected()), &["the authority's certificate is not usable"]);

    // A node's files are no authority's.
    let node_only = self::directory();
    let (certificate, key) = Authority::files(node_only.path());
    fs::copy(&files.certificate, certificate).expect("copied");
    fs::copy(&files.key, key).expect("copied");
    let error = Authority::load(node_only.path()).expect_err("no authority").to_string();
    assert!(error.contains("is no authority's certificate"), "{error}");
}

#[test]
fn an_authority_is_not_loaded_with_another_ones_key() {
    let (ours, theirs) = (directory(), directory());
    init(ours.path());
    init(theirs.path());
    fs::copy(Authority::files(theirs.path()).1, Authority::files(ours.path()).1).expect("copied");
    assert!(matches!(Authority::load(ours.path()), Err(PkiError::KeyMismatch(_))));
}
