//! The plots of a run, made from its outcome.
//!
//! Long runs are thinned to [`POINTS_MAX`] points: counts are added, medians averaged by
//! the answers behind them, and of high percentiles the highest is kept, so that no spike
//! is lost.

use super::super::percentiles;
use super::super::quantities::{amount_text, bytes_text, count_text, duration_text, rate_text};
use super::super::quantities::{printable, span_text};
use super::axis::{Axis, Text};
use super::plot::{Colour, HALF, Place, Plot, Series, Shape, WIDE};
use crate::outcome::{Outcome, Second, Stage};

/// More points than this are not drawn in one series.
pub(super) const POINTS_MAX: usize = 540;
/// Steps within each half of the rest, on the percentile axis.
const STEPS_PER_HALF: u32 = 10;
/// More stages than this are not marked.
const MARKS_MAX: usize = 10;

/// Latency by percentile; none if nothing was answered or the histogram cannot be read.
pub(super) fn latency_by_percentile(outcome: &Outcome) -> Option<Plot> {
    let corrected = percentiles::histogram(&outcome.latency.corrected).ok()??;
    let raw = percentiles::histogram(&outcome.latency.raw).ok().flatten();
    let one_in = one_in_steps(corrected.len());
    let at = |histogram: &hdrhistogram::Histogram<u64>| -> Vec<Option<f64>> {
        let value = |step: &f64| histogram.value_at_quantile(1.0 - 1.0 / step);
        let mut values: Vec<_> = one_in.iter().map(|step| Some(value(step) as f64)).collect();
        if let Some(last) = values.last_mut() {
            *last = Some(histogram.max() as f64);
        }
        values
    };
    let mut series = vec![Series {
        name: "corrected: from the time it was due",
        colour: Colour::First,
        shape: Shape::Area,
        values: at(&corrected),
        text: duration_text,
    }];
    if let Some(raw) = raw {
        series.push(Series {
            name: "raw: from the time it was sent",
            colour: Colour::Second,
            shape: Shape::Line,
            values: at(&raw),
            text: duration_text,
        });
    }
    let highest = corrected.len() as f64;
    Some(Plot {
        title: "Latency by percentile",
        remark: String::new(),
        size: WIDE,
        x: Axis::percentiles(highest),
        y: axis_of(&series, duration_text),
        places: percentile_places(&one_in),
        series,
        shaded_to: None,
        marks: Vec::new(),
    })
}

/// `1/(1-p)` from 1 to the number of values, evenly on a logarithmic axis.
fn one_in_steps(count: u64) -> Vec<f64> {
    let halves = (count.max(1) as f64).log2();
    let steps = (halves * f64::from(STEPS_PER_HALF)).floor() as u32;
    let mut list: Vec<f64> =
        (0..=steps).map(|step| (f64::from(step) / f64::from(STEPS_PER_HALF)).exp2()).collect();
    // The last place is the maximum.
    list.retain(|one_in| *one_in < count as f64);
    list.push(count.max(1) as f64);
    list
}

fn percentile_places(one_in: &[f64]) -> Vec<Place> {
    let mut places: Vec<Place> =
        one_in.iter().map(|one_in| Place { x: *one_in, name: percentile_name(*one_in) }).collect();
    if let Some(last) = places.last_mut() {
        last.name = "maximum".to_owned();
    }
    places
}

fn percentile_name(one_in: f64) -> String {
    let above = 100.0 / one_in;
    // As many digits as tell it from its neighbours.
    let digits = (1.0 - above.log10()).ceil().clamp(0.0, 12.0) as usize;
    format!("p{:.digits$}", 100.0 - above)
}

/// The plots over time, in the order of the page.
pub(super) fn over_time(outcome: &Outcome) -> Vec<Plot> {
    let slices = slices(&outcome.seconds);
    if slices.is_empty() {
        return Vec::new();
    }
    let frame = Frame::of(outcome, &slices);
    let mut plots = vec![
        frame.throughput(&slices),
        frame.latency(&slices),
        frame.failures(&slices),
        frame.connections(&slices),
    ];
    plots.extend(frame.server_cores(&slices));
    plots.extend(frame.server_memory(&slices));
    plots
}

/// Some seconds as one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Slice {
    from_s: f64,
    sum: Second,
}

impl Slice {
    fn per_second(&self, count: u64) -> Option<f64> {
        let span = self.sum.at_s - self.from_s;
        (span > 0.0).then(|| count as f64 / span)
    }

    /// None without answers.
    fn latency(&self, of: u64) -> Option<f64> {
        (self.sum.completed > 0).then_some(of as f64)
    }
}

fn slices(seconds: &[Second]) -> Vec<Slice> {
    let together = seconds.len().div_ceil(POINTS_MAX).max(1);
    let mut from_s = 0.0;
    seconds
        .chunks(together)
        .map(|chunk| {
            let slice = Slice { from_s, sum: sum(chunk) };
            from_s = slice.sum.at_s;
            slice
        })
        .collect()
}

fn sum(seconds: &[Second]) -> Second {
    let mut sum = seconds.last().copied().unwrap_or_default();
    let add = |of: fn(&Second) -> u64| seconds.iter().map(of).sum::<u64>();
    let highest = |of: fn(&Second) -> u64| seconds.iter().map(of).max().unwrap_or_default();
    sum.offered = add(|second| second.offered);
    sum.sent = add(|second| second.sent);
    sum.completed = add(|second| second.completed);
    sum.shed = add(|second| second.shed);
    sum.errors = add(|second| second.errors);
    sum.events = add(|second| second.events);
    let weighted = seconds.iter().map(|second| second.p50 as f64 * second.completed as f64);
    sum.p50 = (weighted.sum::<f64>() / sum.completed.max(1) as f64).round() as u64;
    sum.p99 = highest(|second| second.p99);
    sum.max = highest(|second| second.max);
    let cores: Vec<f64> = seconds.iter().filter_map(|second| second.server_cores).collect();
    let count = cores.len() as f64;
    sum.server_cores = (!cores.is_empty()).then(|| cores.iter().sum::<f64>() / count);
    sum
}

/// What all plots over time share.
struct Frame {
    end_s: f64,
    warmup_s: f64,
    marks: Vec<Place>,
    places: Vec<Place>,
    remark: String,
}

impl Frame {
    fn of(outcome: &Outcome, slices: &[Slice]) -> Frame {
        let planned: f64 = outcome.plan.stages.iter().map(|stage| stage.duration_s).sum();
        let seen = slices.last().map_or(0.0, |slice| slice.sum.at_s);
        // An interrupted run ends early; its plot does not go on without data.
        let end_s = if outcome.verdict.interrupted { seen } else { seen.max(planned) };
        let width = slices[0].sum.at_s - slices[0].from_s;
        let is_thinned = outcome.seconds.len() > slices.len();
        Frame {
            end_s,
            warmup_s: outcome.plan.warmup_s,
            marks: marks(&outcome.plan.stages, end_s),
            places: slices
                .iter()
                .map(|slice| Place {
                    x: slice.sum.at_s,
                    name: format!("{} s", amount_text(slice.sum.at_s)),
                })
                .collect(),
            remark: match is_thinned {
                true => format!("each point covers {}", span_text(width.round())),
                false => String::new(),
            },
        }
    }

    fn plot(&self, title: &'static str, y: Axis, series: Vec<Series>) -> Plot {
        Plot {
            title,
            remark: self.remark.clone(),
            size: HALF,
            x: Axis::time(self.end_s),
            y,
            places: self.places.clone(),
            series,
            shaded_to: (self.warmup_s > 0.0).then_some((self.warmup_s, "warm-up")),
            marks: self.marks.clone(),
        }
    }

    fn throughput(&self, slices: &[Slice]) -> Plot {
        let series = vec![
            of(slices, "offered", Colour::Pale, Shape::Dashes, rate_text, |slice| {
                slice.per_second(slice.sum.offered)
            }),
            of(slices, "completed", Colour::First, Shape::Area, rate_text, |slice| {
                slice.per_second(slice.sum.completed)
            }),
        ];
        self.plot("Requests per second", from_zero(&series, rate_text), series)
    }

    fn latency(&self, slices: &[Slice]) -> Plot {
        let series = vec![
            of(slices, "p50", Colour::First, Shape::Line, duration_text, |slice| {
                slice.latency(slice.sum.p50)
            }),
            of(slices, "p99", Colour::Second, Shape::Line, duration_text, |slice| {
                slice.latency(slice.sum.p99)
            }),
            of(slices, "max", Colour::Pale, Shape::Line, duration_text, |slice| {
                slice.latency(slice.sum.max)
            }),
        ];
        self.plot("Latency, corrected", axis_of(&series, duration_text), series)
    }

    fn failures(&self, slices: &[Slice]) -> Plot {
        let series = vec![
            of(slices, "shed", Colour::Warn, Shape::Area, rate_text, |slice| {
                slice.per_second(slice.sum.shed)
            }),
            of(slices, "errors", Colour::Bad, Shape::Area, rate_text, |slice| {
                slice.per_second(slice.sum.errors)
            }),
        ];
        self.plot("Shed and failed per second", from_zero(&series, rate_text), series)
    }

    fn connections(&self, slices: &[Slice]) -> Plot {
        let text: Text = |value| count_text(value as u64);
        let series = vec![of(slices, "connections", Colour::Third, Shape::Area, text, |slice| {
            Some(f64::from(slice.sum.connections))
        })];
        self.plot("Open connections", from_zero(&series, text), series)
    }

    fn server_cores(&self, slices: &[Slice]) -> Option<Plot> {
        let series = of(slices, "cores", Colour::First, Shape::Area, amount_text, |slice| {
            slice.sum.server_cores
        });
        let is_known = series.values.iter().any(Option::is_some);
        let series = vec![series];
        is_known.then(|| {
            self.plot("Server: processor, in cores", from_zero(&series, amount_text), series)
        })
    }

    fn server_memory(&self, slices: &[Slice]) -> Option<Plot> {
        let series = of(slices, "resident", Colour::Third, Shape::Area, bytes_text, |slice| {
            slice.sum.server_resident_bytes.map(|bytes| bytes as f64)
        });
        let is_known = series.values.iter().any(Option::is_some);
        let series = vec![series];
        is_known.then(|| self.plot("Server: resident memory", size_axis(&series), series))
    }
}

fn of(
    slices: &[Slice],
    name: &'static str,
    colour: Colour,
    shape: Shape,
    text: Text,
    value: fn(&Slice) -> Option<f64>,
) -> Series {
    Series { name, colour, shape, text, values: slices.iter().map(value).collect() }
}

fn values(series: &[Series]) -> impl Iterator<Item = f64> {
    series.iter().flat_map(|series| series.values.iter().copied().flatten())
}

fn from_zero(series: &[Series], text: Text) -> Axis {
    Axis::from_zero(values(series).fold(0.0, f64::max), text)
}

fn axis_of(series: &[Series], text: Text) -> Axis {
    Axis::around(values(series), text)
}

/// In MiB or the like, so that the ticks are round.
fn size_axis(series: &[Series]) -> Axis {
    let highest = values(series).fold(0.0, f64::max);
    Axis::from_zero_in(highest, bytes_unit(highest), bytes_text)
}

/// The largest power of 1,024 that is not above.
fn bytes_unit(bytes: f64) -> f64 {
    let mut unit = 1.0;
    while unit * 1_024.0 <= bytes {
        unit *= 1_024.0;
    }
    unit
}

/// The beginning of each stage but the first, with what it asks for.
fn marks(stages: &[Stage], end_s: f64) -> Vec<Place> {
    if stages.len() > MARKS_MAX {
        return Vec::new();
    }
    let mut at = 0.0;
    let mut marks = Vec::new();
    for stage in stages {
        if at > 0.0 && at < end_s {
            marks.push(Place { x: at, name: printable(&mark_text(stage)) });
        }
        at += stage.duration_s;
    }
    marks
}

fn mark_text(stage: &Stage) -> String {
    let load = match stage.rate {
        Some(rate) => rate_text(rate),
        None => format!("{} conn.", count_text(u64::from(stage.connections))),
    };
    if stage.ramp { format!("→ {load}") } else { load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::sample;

    #[test]
    fn percentiles_are_those_of_the_histograms() {
        let outcome = sample::outcome();
        let plot = latency_by_percentile(&outcome).expect("answers");
        let at = |series: usize, one_in: f64| {
            let index = plot.places.iter().position(|place| place.x == one_in).expect("a place");
            plot.series[series].values[index].expect("a value") as u64
        };
        let (corrected, raw) = (&outcome.latency.corrected, &outcome.latency.raw);
        assert_eq!((at(0, 1.0), at(0, 2.0)), (corrected.min, corrected.p50));
        assert_eq!((at(1, 1.0), at(1, 2.0)), (raw.min, raw.p50));
        let last = corrected.count as f64;
        assert_eq!((at(0, last), at(1, last)), (corrected.max, raw.max));
        let values = &plot.series[0].values;
        assert!(values.windows(2).all(|pair| pair[0] <= pair[1]), "percentiles only rise");
        assert!(plot.places.windows(2).all(|pair| pair[0].x < pair[1].x));
        assert!(plot.places.len() < 200, "{}", plot.places.len());
    }

    #[test]
    fn percentiles_have_the_digits_that_matter() {
        for (one_in, expected) in [
            (1.0, "p0"),
            (2.0, "p50"),
            (10.0, "p90"),
            (100.0, "p99.0"),
            (1_000.0, "p99.90"),
            (16_384.0, "p99.9939"),
        ] {
            assert_eq!(percentile_name(one_in), expected);
        }
    }

    #[test]
    fn a_run_without_answers_has_no_latency_to_plot() {
        let mut outcome = sample::outcome();
        outcome.latency.corrected.histogram = "broken".to_owned();
        assert!(latency_by_percentile(&outcome).is_none());
        outcome.latency = Default::default();
        assert!(latency_by_percentile(&outcome).is_none());
        outcome.seconds.clear();
        assert!(over_time(&outcome).is_empty());
    }

    #[test]
    fn a_long_run_is_thinned_and_loses_no_spike() {
        let second = |at: u32| Second {
            at_s: f64::from(at),
            offered: 10,
            completed: 10,
            p50: 100,
            p99: if at == 7_777 { 900_000 } else { 200 },
            errors: u64::from(at == 9_999),
            ..Second::default()
        };
        let seconds: Vec<Second> = (1..=10_000).map(second).collect();
        let slices = slices(&seconds);
        assert!(slices.len() <= POINTS_MAX, "{}", slices.len());
        let of = |value: fn(&Slice) -> u64| slices.iter().map(value);
        assert_eq!(of(|slice| slice.sum.p99).max(), Some(900_000));
        assert_eq!(of(|slice| slice.sum.errors).sum::<u64>(), 1);
        assert_eq!(of(|slice| slice.sum.completed).sum::<u64>(), 100_000);
        assert!(slices.iter().all(|slice| slice.per_second(slice.sum.offered) == Some(10.0)));
        assert!(slices.iter().all(|slice| slice.sum.p50 == 100));
    }

    #[test]
    fn what_is_not_known_of_the_server_has_no_plot() {
        let mut outcome = sample::outcome();
        assert_eq!(over_time(&outcome).len(), 6);
        for second in &mut outcome.seconds {
            second.server_cores = None;
            second.server_resident_bytes = None;
        }
        assert_eq!(over_time(&outcome).len(), 4);
    }

    #[test]
    fn an_interrupted_run_ends_where_its_data_ends() {
        let mut outcome = sample::outcome();
        outcome.seconds.truncate(20);
        let end = |outcome: &Outcome| {
            let plot = over_time(outcome).remove(0);
            plot.x.place(20.0)
        };
        assert!(end(&outcome) < 0.5, "60 s were planned");
        outcome.verdict.interrupted = true;
        assert_eq!(end(&outcome), 1.0);
    }

    #[test]
    fn stages_are_marked_by_what_they_ask_for() {
        let stages = sample::outcome().plan.stages;
        let names: Vec<String> = marks(&stages, 60.0).into_iter().map(|mark| mark.name).collect();
        assert_eq!(names, ["→ 50,000/s", "50,000/s", "60,000/s"]);
        assert!(marks(&vec![stages[0].clone(); MARKS_MAX + 1], 60.0).is_empty());
    }
}
