//! Tool servers as child processes: bytes both ways, every kind of end, and nothing left.
#![forbid(unsafe_code)]

#[path = "children/rig.rs"]
mod rig;

use std::time::Duration;

use shardgate::children::{ChildNews, INPUT_BACKLOG_BYTES_MAX};
use shardgate_proto::upstream::LinkEnd;

use rig::{Rig, SHARD, shell, spec};

#[tokio::test]
async fn large_lines_travel_both_ways_unchanged() {
    let mut rig = Rig::start([spec(&["cat"])]);
    let link = rig.open(0).await;
    let mut sent = Vec::new();
    for number in 0..4_u8 {
        let mut line = vec![b'a' + number; 1024 * 1024];
        line.push(b'\n');
        rig.write(link, &line);
        sent.extend(line);
    }
    let received = rig.read(link, sent.len()).await;
    assert!(received == sent, "the echo differs from what was sent");
    rig.end().await;
}

#[tokio::test]
async fn an_orderly_exit_is_told_after_the_last_byte() {
    let mut rig = Rig::start([shell("read line; printf '%s' \"$line\"; exit 0")]);
    let link = rig.open(0).await;
    rig.write(link, b"bye\n");
    assert_eq!(rig.read(link, 3).await, b"bye");
    assert_eq!(rig.ended(link).await, LinkEnd::Closed);
    assert_eq!(rig.counts(0).exited, 1);
    rig.end().await;
}

#[tokio::test]
async fn a_crash_is_told_with_the_last_words() {
    let mut rig = Rig::start([
        shell("echo starting >&2; echo 'no such table: users' >&2; exit 3"),
        shell("kill -9 $$"),
    ]);
    let link = rig.open(0).await;
    let expected =
        "tool server 'server-0' exited with code 3; its last words: no such table: users";
    assert_eq!(rig.ended(link).await, LinkEnd::Broken(expected.to_owned()));
    let link = rig.open(1).await;
    let expected = "tool server 'server-1' was ended by signal 9";
    assert_eq!(rig.ended(link).await, LinkEnd::Broken(expected.to_owned()));
    assert_eq!((rig.counts(0).crashed, rig.counts(1).crashed), (1, 1));
    rig.end().await;
}

#[tokio::test]
async fn what_can_not_start_says_why() {
    let mut nowhere = spec(&["cat"]);
    nowhere.directory = Some("/no/such/directory".into());
    let mut rig =
        Rig::start([spec(&["no-such-program-at-all", "-x"]), spec(&["/etc/passwd"]), nowhere]);
    for (endpoint, step, advice) in [
        (0, "run no-such-program-at-all: No such file", "check command in [[upstream]]"),
        (1, "run /etc/passwd: Permission denied", "check command in [[upstream]]"),
        (2, "enter /no/such/directory: No such file", "check directory in [[upstream]]"),
    ] {
        let link = rig.ask(endpoint);
        let LinkEnd::Unreachable(text) = rig.ended(link).await else { panic!("it can't start") };
        assert!(
            text.starts_with(&format!("start tool server 'server-{endpoint}': {step}")),
            "{text}"
        );
        assert!(text.ends_with(advice), "{text}");
        assert_eq!(rig.counts(endpoint).not_started, 1);
    }
    rig.end().await;
}

#[tokio::test]
async fn a_child_that_ignores_everything_is_killed_with_what_it_started() {
    let mut stubborn = shell(
        "trap '' TERM; sleep 1000 & setsid sleep 1000 & echo up; while :; do sleep 1000; done",
    );
    stubborn.stop_grace_ms = 200;
    let mut rig = Rig::start([stubborn]);
    let link = rig.open(0).await;
    rig.read(link, 3).await;
    // A guard, a shell and two sleepers, of which the last may still be starting.
    rig.until_processes(|count| count >= 4).await;
    rig.close(link);
    rig.until_no_process_is_left().await;
    assert_eq!(rig.counts(0).closed, 1);
    rig.end().await;
}

#[tokio::test]
async fn what_a_child_leaves_behind_ends_with_it() {
    let mut rig = Rig::start([shell("sleep 1000 & setsid sleep 1000 & exec cat")]);
    let link = rig.open(0).await;
    rig.write(link, b"x");
    rig.read(link, 1).await;
    rig.close(link);
    rig.until_no_process_is_left().await;
    rig.end().await;
}

#[tokio::test]
async fn a_child_may_finish_its_work_after_its_input_is_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut tidy = shell("while read line; do :; done; echo saved > state");
    tidy.directory = Some(directory.path().to_owned());
    let mut rig = Rig::start([tidy]);
    let link = rig.open(0).await;
    rig.close(link);
    rig.until_no_process_is_left().await;
    let saved = std::fs::read_to_string(directory.path().join("state")).expect("it was written");
    assert_eq!(saved, "saved\n");
    rig.end().await;
}

#[tokio::test]
async fn two_hundred_children_leave_no_process() {
    let mut many = shell("sleep 1000 & exec cat");
    many.children_max = 200;
    let mut rig = Rig::start([many]);
    let links: Vec<_> = (0..200).map(|_| rig.ask(0)).collect();
    for &link in &links {
        rig.write(link, b"ready\n");
    }
    for &link in &links {
        assert_eq!(rig.read(link, 6).await, b"ready\n");
    }
    assert_eq!(rig.counts(0).running, 200);
    // Half end by their links, the others by the drain.
    for &link in &links[..100] {
        rig.close(link);
    }
    rig.end().await;
}

#[tokio::test]
async fn limits_refuse_by_name() {
    let (mut one, mut many) = (spec(&["cat"]), spec(&["cat"]));
    (one.children_max, many.children_max) = (1, 9);
    let mut rig = Rig::start_with([one, many], |setup| setup.children_max = 3);
    let first = rig.open(0).await;
    let text = rig.refusal(0).await;
    assert!(text.contains("all 1 children run; see children_max in [[upstream]]"), "{text}");
    // A link that is closed makes room at once, while its child is still ending.
    rig.close(first);
    rig.open(0).await;
    rig.until_processes(|count| count == 2).await;
    rig.open(1).await;
    rig.open(1).await;
    let text = rig.refusal(1).await;
    assert!(text.contains("see limits.children_max"), "{text}");
    assert_eq!((rig.counts(0).refused, rig.counts(1).refused), (1, 1));
    rig.end().await;
}

#[tokio::test]
async fn a_child_that_does_not_read_is_given_up() {
    let mut rig = Rig::start([shell("exec sleep 1000")]);
    let link = rig.open(0).await;
    let piece = vec![b'x'; 1024 * 1024];
    for _ in 0..=INPUT_BACKLOG_BYTES_MAX / piece.len() + 1 {
        rig.write(link, &piece);
    }
    let LinkEnd::Broken(text) = rig.ended(link).await else { panic!("it broke") };
    assert!(text.contains("'server-0' does not read its standard input"), "{text}");
    rig.until_no_process_is_left().await;
    assert_eq!(rig.counts(0).stuck, 1);
    rig.end().await;
}

#[tokio::test]
async fn a_full_mailbox_stops_the_child_and_loses_nothing() {
    let mut rig = Rig::start([shell("seq 1 1000000; exec cat")]);
    let link = rig.open(0).await;
    rig.set_mailbox_open(false);
    rig.until_refused(50).await;
    let names: Vec<String> = rig.processes().into_iter().map(|process| process.name).collect();
    assert!(names.iter().any(|name| name == "seq"), "it still waits to write: {names:?}");
    rig.set_mailbox_open(true);
    let expected: String = (1..=1_000_000).map(|number| format!("{number}\n")).collect();
    let received = rig.read(link, expected.len()).await;
    assert!(received == expected.as_bytes(), "output was lost or changed");
    rig.end().await;
}

#[tokio::test]
async fn one_piece_may_be_larger_than_the_backlog() {
    let mut rig = Rig::start([spec(&["cat"])]);
    let link = rig.open(0).await;
    let piece: Vec<u8> = (0..INPUT_BACKLOG_BYTES_MAX + 1).map(|at| (at % 251) as u8).collect();
    rig.write(link, &piece);
    let received = rig.read(link, piece.len()).await;
    assert!(received == piece, "the echo differs from what was sent");
    rig.end().await;
}

#[tokio::test]
async fn a_flood_of_errors_holds_up_nothing() {
    let mut rig = Rig::start([shell("seq 1 300000 >&2; printf done; exit 1")]);
    let link = rig.open(0).await;
    assert_eq!(rig.read(link, 4).await, b"done");
    let LinkEnd::Broken(text) = rig.ended(link).await else { panic!("it broke") };
    assert!(text.ends_with("exited with code 1; its last words: 300000"), "{text}");
    rig.end().await;
}

#[tokio::test]
async fn a_crash_is_told_although_a_descendant_holds_the_output() {
    let mut rig = Rig::start([shell("sleep 1000 & setsid sleep 1000 & exit 7")]);
    let link = rig.open(0).await;
    let LinkEnd::Broken(text) = rig.ended(link).await else { panic!("it broke") };
    assert!(text.contains("exited with code 7"), "{text}");
    rig.until_no_process_is_left().await;
    rig.end().await;
}

#[test]
fn a_guard_is_not_for_people() {
    let shardgate = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_shardgate"));
        command.args(arguments).stdin(std::process::Stdio::null()).output().expect("it runs")
    };
    let output = shardgate(&["child-guard", "--grace-ms", "1", "--", "echo", "ran"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    let text = String::from_utf8(output.stderr).expect("text");
    assert!(text.contains("only the gateway starts a guard"), "{text}");
    let help = shardgate(&["--help"]).stdout;
    let help = String::from_utf8(help).expect("text");
    assert!(help.contains("status") && !help.contains("child-guard"), "{help}");
}

#[tokio::test]
async fn only_chosen_variables_are_inherited() {
    let mut listing = spec(&["env"]);
    listing.env = vec![("API_KEY".to_owned(), "for this server".to_owned())];
    let mut rig = Rig::start([listing]);
    let link = rig.open(0).await;
    let text = rig.read_all(link).await;
    let text = String::from_utf8(text).expect("text");
    let mut names: Vec<&str> =
        text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert!(names.contains(&"API_KEY") && names.contains(&"PATH"), "{names:?}");
    // Cargo sets many for tests.
    assert!(!names.iter().any(|name| name.starts_with("CARGO")), "{names:?}");
    rig.end().await;
}

#[tokio::test]
async fn a_guard_that_is_killed_takes_its_child_with_it() {
    let mut rig = Rig::start([spec(&["sleep", "1000"])]);
    let link = rig.open(0).await;
    let guard = rig.processes().into_iter().find(|process| process.name == "child-guard");
    rig::kill(guard.expect("it runs").pid);
    let LinkEnd::Broken(text) = rig.ended(link).await else { panic!("it broke") };
    assert!(text.contains("lost its guard"), "{text}");
    rig.until_no_process_is_left().await;
    rig.end().await;
}

#[tokio::test]
async fn a_drain_kills_what_is_not_done_in_time() {
    let mut slow = shell("trap '' TERM; echo up; while :; do sleep 1000; done");
    slow.stop_grace_ms = 3_600_000;
    let mut rig = Rig::start([slow]);
    let link = rig.open(0).await;
    rig.read(link, 3).await;
    rig.end_within(Duration::from_millis(200)).await;
}

#[tokio::test]
async fn children_keep_their_spec_and_new_ones_get_the_new() {
    let mut rig = Rig::start([shell("echo old; exec cat")]);
    let old = rig.open(0).await;
    rig.replace([shell("echo new; exec cat")]);
    assert_eq!(rig.read(old, 4).await, b"old\n");
    let new = rig.open(0).await;
    assert_eq!(rig.read(new, 4).await, b"new\n");
    rig.write(old, b"still here");
    assert_eq!(rig.read(old, 10).await, b"still here");
    rig.replace([]);
    let text = rig.refusal(0).await;
    assert!(text.contains("no longer configured"), "{text}");
    rig.end().await;
}

/// The victim of the next test: a supervisor in a process of its own. Alone it proves nothing.
#[tokio::test]
async fn supervisor_to_be_killed() {
    if std::env::var_os(rig::VICTIM).is_none() {
        return;
    }
    let mut rig = Rig::start([
        shell("sleep 1000 & setsid sleep 1000 & exec cat"),
        shell("trap '' TERM; sleep 1000 & while :; do sleep 1000; done"),
    ]);
    rig.open(0).await;
    rig.open(1).await;
    println!("{}", rig::VICTIM_IS_READY);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_outlives_a_gateway_that_is_killed() {
    let mut victim = rig::Victim::start("supervisor_to_be_killed");
    let sleepers = ["sleep"; 4];
    victim
        .until_names(["cat", "child-guard", "child-guard", "sh"].into_iter().chain(sleepers))
        .await;
    victim.kill();
    victim.until_no_process_is_left().await;
}

#[tokio::test]
async fn news_of_one_link_come_in_order() {
    let mut rig = Rig::start([shell("printf ab")]);
    let link = rig.ask(0);
    assert_eq!(rig.next().await, (SHARD, ChildNews::Opened(link)));
    assert_eq!(rig.next().await, (SHARD, ChildNews::Bytes(link, b"ab".to_vec())));
    assert_eq!(rig.next().await, (SHARD, ChildNews::Ended(link, LinkEnd::Closed)));
    rig.end().await;
}
