use super::fixture::*;
use crate::coordinator::*;
use crate::identity::{Epoch, NodeId, VSHARDS, VshardId};

/// A state with something of everything.
fn full() -> Log {
    let mut log = Log::of_nodes(4);
    log.done(Command::RemoveNode { id: NodeId(4) });
    log.done(Command::SetFeatureLevel { level: 1 });
    let moves = (0..VSHARDS).map(|vshard| Move {
        vshard: VshardId(vshard),
        epoch: Epoch(0),
        version: 0,
        to: NodeId(vshard % 3 + 1),
        copies: Copies::of(&[1, 2, 3].map(NodeId)).unwrap(),
    });
    log.done(Command::MoveVshards { moves: moves.collect() });
    for name in ["a", "b", "c"] {
        log.done(register_worker(name, 1));
    }
    log.done(deregister("c", 1, Departure::LeaseEnded));
    for id in 0..20 {
        log.now_ms += 1;
        let task = TaskSubmission { params: vec![b'1'; 50_000].into(), ..submission(id) };
        log.done(Command::SubmitTask(Box::new(task)));
    }
    log.done(complete(1, 1));
    let brief = TaskSubmission { ttl_ms: Some(0), ..submission(99) };
    log.done(Command::SubmitTask(Box::new(brief)));
    let due = log.state.due_tasks(log.now_ms, 10);
    log.done(Command::DropTasks { ids: due });
    log.done(fence(3, 1));
    log
}

#[test]
fn what_was_frozen_is_read_back_whatever_the_pieces() {
    let log = full();
    log.state.audit().unwrap();
    let bytes = log.state.to_snapshot();
    let back = State::from_snapshot(&bytes).unwrap();
    assert!(back == log.state, "{back:?}");
    assert_eq!(back.digest(), log.state.digest());
    for size in [1, 7, 4_096, 300_000] {
        let mut thaw = Thaw::default();
        bytes.chunks(size).for_each(|piece| thaw.handle_bytes(piece).unwrap());
        assert!(thaw.finish().unwrap() == log.state, "pieces of {size}");
    }
}

#[test]
fn a_frozen_state_does_not_change_with_the_state() {
    let mut log = full();
    let whole = log.state.to_snapshot();
    let mut frozen = log.state.freeze();
    let mut bytes = frozen.next().unwrap();
    log.done(complete(0, 1));
    log.done(submit(500));
    bytes.extend(frozen.flatten());
    assert_eq!(bytes, whole);
}

#[test]
fn chunks_stay_far_below_their_bound() {
    let log = full();
    let chunks: Vec<usize> = log.state.freeze().map(|chunk| chunk.len()).collect();
    assert!(chunks.len() > 4, "20 tasks of 50 KB are several chunks: {chunks:?}");
    assert!(chunks.iter().all(|bytes| *bytes < 1_000_000), "{chunks:?}");
}

#[test]
fn the_table_of_virtual_shards_is_small() {
    let log = full();
    let mut bare = Log::of_nodes(3);
    let (with, without) = (log.state.freeze().nth(3), bare.state.freeze().nth(2));
    bare.done(fence(1, 1));
    let sizes = (with.unwrap().len(), without.unwrap().len());
    assert!(sizes.0 < usize::from(VSHARDS) * 12, "{sizes:?}");
}

#[test]
fn any_truncation_is_noticed() {
    let bytes = full().state.to_snapshot();
    let mut ends: Vec<usize> = (0..200).chain((0..bytes.len()).step_by(9_973)).collect();
    ends.extend(bytes.len() - 60..bytes.len());
    for end in ends {
        let error = State::from_snapshot(&bytes[..end]).unwrap_err();
        assert_eq!(error, BadSnapshot::Truncated { at: end as u64 });
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(State::from_snapshot(&longer).is_err());
}

#[test]
fn any_flipped_bit_is_noticed() {
    let bytes = full().state.to_snapshot();
    for place in (0..600).chain((600..bytes.len()).step_by(4_999)) {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        let error = State::from_snapshot(&damaged).unwrap_err();
        assert!(error.to_string().contains("the snapshot"), "{place}: {error}");
    }
}

#[test]
fn a_later_format_says_which_program_is_needed() {
    let mut bytes = full().state.to_snapshot();
    bytes[SNAPSHOT_MAGIC.len()] = 2;
    let error = State::from_snapshot(&bytes).unwrap_err();
    assert_eq!(error, BadSnapshot::FormatTooNew { got: 2 });
    assert!(error.to_string().contains("run the newer program again"));
    assert_eq!(State::from_snapshot(b"GIF89a, a picture"), Err(BadSnapshot::NotASnapshot));
}

#[test]
fn states_that_differ_have_different_digests() {
    let mut log = full();
    let before = log.state.digest();
    let mut twin = log.state.clone();
    log.done(start(0, 1));
    let nothing = Batch { now_ms: log.now_ms, commands: Vec::new() };
    twin.apply(log.state.applied(), &nothing, &mut Vec::new());
    assert_ne!(twin.digest(), before, "the log index counts");
    assert_ne!(twin.digest(), log.state.digest());
    twin = State::from_snapshot(&log.state.to_snapshot()).unwrap();
    assert_eq!(twin.digest(), log.state.digest());
}
