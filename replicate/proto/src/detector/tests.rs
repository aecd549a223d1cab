//! The rules of suspicion, case by case and under random histories.

use proptest::prelude::*;

use super::*;

const FIRST: Incarnation = Incarnation(1);
const OWN: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);
const OTHER: NodeId = NodeId(3);

/// A watch over two peers that were heard every 100 ms, the last time at `now_ms`.
struct Watch {
    detector: Detector,
    now_ms: u64,
}

impl Watch {
    fn new() -> Watch {
        let mut detector = Detector::new(OWN, Sensitivity::default());
        detector.watch(PEER, FIRST, 0);
        detector.watch(OTHER, FIRST, 0);
        let mut watch = Watch { detector, now_ms: 0 };
        assert_eq!(watch.run(20_000, &[PEER, OTHER]), []);
        watch
    }

    /// Lets time pass by turns of 50 ms, in which some peers are heard every 100 ms.
    fn run(&mut self, ms: u64, heard: &[NodeId]) -> Vec<(u64, Verdict)> {
        let end_ms = self.now_ms + ms;
        let mut verdicts = Vec::new();
        while self.now_ms < end_ms {
            self.now_ms += 50;
            if self.now_ms.is_multiple_of(100) {
                for peer in heard {
                    self.detector.handle_heartbeat(*peer, FIRST, self.now_ms);
                }
            }
            let said = self.detector.poll(self.now_ms);
            verdicts.extend(said.into_iter().map(|verdict| (self.now_ms, verdict)));
        }
        verdicts
    }

    fn accuse(&mut self, refused: bool) {
        self.detector.handle_accusation(OTHER, PEER, FIRST, refused, self.now_ms);
    }
}

fn fences(verdicts: &[(u64, Verdict)]) -> Vec<u64> {
    let fences = verdicts.iter().filter(|(_, said)| matches!(said, Verdict::Fence { .. }));
    fences.map(|(ms, _)| *ms).collect()
}

#[test]
fn a_silent_peer_is_suspected_after_half_a_second_and_accused_again_and_again() {
    let mut watch = Watch::new();
    let start = watch.now_ms;
    let verdicts = watch.run(1_600, &[OTHER]);
    let accused: Vec<u64> = verdicts.iter().map(|(ms, _)| ms - start).collect();
    assert_eq!(accused, [500, 1_000, 1_500]);
    assert!(matches!(
        verdicts[0].1,
        Verdict::Accuse { peer: PEER, evidence: Evidence::Silent { silent_ms: 500, .. }, .. }
    ));
    assert_eq!(fences(&verdicts), [], "one observer of a silence is not enough");
    let back = watch.run(100, &[PEER, OTHER]);
    assert_eq!(
        back.iter().map(|(_, said)| said.clone()).collect::<Vec<_>>(),
        [Verdict::Retract { peer: PEER, incarnation: FIRST }]
    );
}

#[test]
fn two_observers_of_a_silence_are_enough() {
    let mut watch = Watch::new();
    watch.run(550, &[OTHER]);
    watch.accuse(false);
    let verdicts = watch.run(50, &[OTHER]);
    assert_eq!(fences(&verdicts), [watch.now_ms]);
    let Verdict::Fence { reason, .. } = &verdicts[0].1 else { panic!("{verdicts:?}") };
    assert!(
        reason.starts_with("silent for 600 ms") && reason.ends_with("node 1 and 3"),
        "{reason}"
    );
    // It is said again, in case that the proposal got lost, until the peer is forgotten.
    watch.accuse(false);
    assert_eq!(fences(&watch.run(500, &[OTHER])).len(), 1);
    watch.detector.forget(PEER);
    assert_eq!(watch.run(2_000, &[OTHER]), []);
}

#[test]
fn one_refused_connection_is_enough_and_a_broken_one_is_not() {
    let mut watch = Watch::new();
    watch.detector.handle_closed(PEER);
    let verdicts = watch.run(50, &[OTHER]);
    assert!(matches!(verdicts[..], [(_, Verdict::Accuse { evidence: Evidence::Closed, .. })]));
    watch.detector.handle_refused(PEER);
    assert_eq!(fences(&watch.run(50, &[OTHER])), [watch.now_ms]);
    let mut told = Watch::new();
    told.accuse(true);
    assert_eq!(fences(&told.run(50, &[PEER, OTHER])), [told.now_ms], "another node was refused");
}

#[test]
fn a_connection_that_comes_back_clears_the_suspicion() {
    let mut watch = Watch::new();
    watch.detector.handle_closed(PEER);
    watch.run(50, &[]);
    let verdicts = watch.run(50, &[PEER, OTHER]);
    assert!(matches!(verdicts[..], [(_, Verdict::Retract { peer: PEER, .. })]), "{verdicts:?}");
    assert_eq!(watch.detector.suspects(watch.now_ms), BTreeMap::new());
}

#[test]
fn a_node_that_stalled_itself_accuses_nobody_and_listens_anew() {
    let mut watch = Watch::new();
    watch.run(600, &[OTHER]);
    assert!(watch.detector.suspects(watch.now_ms).contains_key(&PEER));
    watch.accuse(false);
    watch.now_ms += 201;
    let verdicts = watch.detector.poll(watch.now_ms);
    assert_eq!(verdicts, [Verdict::Retract { peer: PEER, incarnation: FIRST }]);
    assert_eq!(watch.detector.stalls(), 1);
    let stalled_ms = watch.now_ms;
    let verdicts = watch.run(600, &[]);
    let accused = verdicts.iter().find(|(_, said)| matches!(said, Verdict::Accuse { .. }));
    assert!(accused.is_some_and(|(ms, _)| ms - stalled_ms >= 500), "{verdicts:?}");
}

#[test]
fn an_accusation_is_void_after_a_while_or_for_another_life() {
    let mut watch = Watch::new();
    watch.accuse(false);
    watch.run(ACCUSATION_MS, &[PEER, OTHER]);
    assert_eq!(fences(&watch.run(1_000, &[OTHER])), [], "the accusation is old");
    let now_ms = watch.now_ms;
    watch.detector.handle_accusation(OTHER, PEER, Incarnation(0), true, now_ms);
    assert_eq!(fences(&watch.run(1_000, &[OTHER])), [], "an earlier life was meant");
    watch.accuse(false);
    watch.detector.handle_retraction(OTHER, PEER);
    assert_eq!(fences(&watch.run(1_000, &[OTHER])), [], "it was taken back");
}

#[test]
fn the_word_of_a_suspect_or_a_stranger_does_not_count() {
    let mut watch = Watch::new();
    watch.run(600, &[]);
    watch.accuse(true);
    let now_ms = watch.now_ms;
    watch.detector.handle_accusation(NodeId(9), PEER, FIRST, true, now_ms);
    assert_eq!(fences(&watch.run(50, &[])), []);
}

#[test]
fn a_new_life_begins_without_suspicion_and_an_old_one_is_not_heard() {
    let mut watch = Watch::new();
    watch.run(600, &[OTHER]);
    watch.detector.handle_heartbeat(PEER, Incarnation(2), watch.now_ms);
    assert_eq!(watch.detector.suspects(watch.now_ms), BTreeMap::new());
    // Heartbeats of the life before say nothing of this one.
    let verdicts = watch.run(600, &[PEER, OTHER]);
    let accused = |said: &Verdict| {
        matches!(said, Verdict::Accuse { peer: PEER, incarnation: Incarnation(2), .. })
    };
    assert!(verdicts.iter().any(|(_, said)| accused(said)), "{verdicts:?}");
}

#[test]
fn one_is_no_peer_of_oneself() {
    let mut detector = Detector::new(OWN, Sensitivity::default());
    detector.handle_heartbeat(OWN, FIRST, 0);
    detector.poll(0);
    assert_eq!((1..100).flat_map(|turn| detector.poll(turn * 100)).collect::<Vec<_>>(), []);
}

proptest! {
    /// Heartbeats that come late by up to 300 ms never make a suspect.
    #[test]
    fn late_heartbeats_make_no_suspect(delays in prop::collection::vec(0..300_u64, 50..400)) {
        let mut detector = Detector::new(OWN, Sensitivity::default());
        detector.watch(PEER, FIRST, 0);
        let mut arrivals: Vec<u64> =
            delays.iter().enumerate().map(|(turn, delay)| turn as u64 * 100 + delay).collect();
        arrivals.sort_unstable();
        let mut next = arrivals.iter().peekable();
        for now_ms in (0..*arrivals.last().unwrap()).step_by(50) {
            while let Some(at_ms) = next.next_if(|at_ms| **at_ms <= now_ms) {
                detector.handle_heartbeat(PEER, FIRST, *at_ms);
            }
            prop_assert_eq!(detector.poll(now_ms), []);
        }
    }

    /// However it went before, a peer that is gone is suspected within a bounded time.
    #[test]
    fn a_peer_that_is_gone_is_suspected_in_time(
        intervals in prop::collection::vec(1..2_000_u64, 1..300),
    ) {
        let mut detector = Detector::new(OWN, Sensitivity::default());
        detector.watch(PEER, FIRST, 0);
        let mut now_ms = 0;
        for interval in intervals {
            now_ms += interval;
            detector.handle_heartbeat(PEER, FIRST, now_ms);
        }
        let latest = now_ms + 5 * INTERVAL_MS_MAX;
        prop_assert!(detector.suspects(latest).contains_key(&PEER));
    }
}
