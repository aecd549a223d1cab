//! From values to places on a plot: linear, logarithmic, and the two special axes of a
//! load test, time and percentiles.
//!
//! Every axis spans something, also for empty or constant data, so that a place is always
//! a number from 0 to 1.

use super::super::quantities::span_text;

/// Distances between ticks of time, seconds.
const TIME_STEPS: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 7_200.0];
/// Ticks on an axis, about.
const TICKS: f64 = 6.0;
const TIME_TICKS_MAX: f64 = 8.0;
/// A larger ratio of largest to smallest is shown by a logarithmic axis.
const LINEAR_RATIO_MAX: f64 = 12.0;

/// One axis.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// In rising order.
    pub(super) ticks: Vec<Tick>,
}

/// A value with a line and a text of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

/// How a value is written.
pub(super) type Text = fn(f64) -> String;

impl Axis {
    /// From 0 to a round number that is not below `high`.
    pub(super) fn from_zero(high: f64, text: Text) -> Axis {
        Axis::from_zero_in(high, 1.0, text)
    }

    /// The same with ticks that are round in another unit.
    pub(super) fn from_zero_in(high: f64, unit: f64, text: Text) -> Axis {
        let high = if high > 0.0 && high.is_finite() { high } else { 1.0 };
        let step = round_up(high / unit / TICKS) * unit;
        let count = (high / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=count as u32).map(|n| tick(f64::from(n) * step, text)).collect();
        Axis { scale: Scale::Linear, low: 0.0, high: count * step, ticks }
    }

    /// Around values above 0: logarithmic if they are far from each other, else from 0.
    pub(super) fn around(values: impl Iterator<Item = f64>, text: Text) -> Axis {
        let positive = values.filter(|value| *value > 0.0 && value.is_finite());
        let range = positive.fold(None, |range, value| match range {
            None => Some((value, value)),
            Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
        });
        match range {
            Some((low, high)) if high / low > LINEAR_RATIO_MAX => {
                Axis::logarithmic(low, high, text)
            }
            Some((_, high)) => Axis::from_zero(high, text),
            None => Axis::from_zero(0.0, text),
        }
    }

    fn logarithmic(low: f64, high: f64, text: Text) -> Axis {
        let mut value = 10_f64.powf(low.log10().floor());
        let mut ticks = Vec::new();
        // The last tick at or below the lowest value begins the axis, the first at or
        // above the highest ends it.
        'decades: loop {
            for factor in [1.0, 2.0, 5.0] {
                let at = value * factor;
                if at <= low {
                    ticks.clear();
                }
                ticks.push(tick(at, text));
                if at >= high {
                    break 'decades;
                }
            }
            value *= 10.0;
        }
        let (low, high) = (ticks[0].value, ticks[ticks.len() - 1].value);
        // Many decades have no room for their twos and fives.
        if high / low > 2e3 {
            let last = ticks.len() - 1;
            let is_decade = |value: f64| (value.log10() - value.log10().round()).abs() < 1e-9;
            let mut index = 0;
            ticks.retain(|tick| {
                let keep = index == 0 || index == last || is_decade(tick.value);
                index += 1;
                keep
            });
        }
        Axis { scale: Scale::Logarithmic, low, high, ticks }
    }

    /// From the beginning of a run to its end, in seconds.
    pub(super) fn time(end_s: f64) -> Axis {
        let end_s = if end_s > 0.0 { end_s } else { 1.0 };
        let fits = |step: &&f64| end_s / **step <= TIME_TICKS_MAX;
        let step = TIME_STEPS.iter().find(fits).copied();
        let step = step.unwrap_or_else(|| (end_s / TIME_TICKS_MAX / 3_600.0).ceil() * 3_600.0);
        let count = (end_s / step + 1e-9).floor() as u32;
        let ticks = (0..=count).map(|n| tick(f64::from(n) * step, span_text)).collect();
        Axis { scale: Scale::Linear, low: 0.0, high: end_s, ticks }
    }

    /// Percentiles up to the one that one in `one_in_max` is above; the values are
    /// `1/(1-p)`, so that each further nine has the same room.
    pub(super) fn percentiles(one_in_max: f64) -> Axis {
        let high = one_in_max.max(10.0);
        let median = Tick { value: 2.0, text: "50 %".to_owned() };
        let mut ticks = vec![Tick { value: 1.0, text: "0 %".to_owned() }, median];
        let mut one_in = 10.0;
        let mut nines = 1;
        while one_in <= high * 1.001 {
            ticks.push(Tick { value: one_in, text: nines_text(nines) });
            one_in *= 10.0;
            nines += 1;
        }
        Axis { scale: Scale::Logarithmic, low: 1.0, high, ticks }
    }

    /// From 0 at the beginning to 1 at the end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Logarithmic => {
                (value.max(self.low) / self.low).ln() / (self.high / self.low).ln()
            }
        };
        place.clamp(0.0, 1.0)
    }

    /// True if equal distances are equal factors.
    pub(super) fn is_logarithmic(&self) -> bool {
        self.scale == Scale::Logarithmic
    }
}

/// `90 %`, `99 %`, `99.9 %`
fn nines_text(nines: u32) -> String {
    match nines {
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        more => format!("99.{} %", "9".repeat(more as usize - 2)),
    }
}

/// The next of 1, 2, 5, 10, … that is not below.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|f| f * decade >= value * 0.999_999);
    factor.unwrap_or(10.0) * decade
}

fn tick(value: f64, text: Text) -> Tick {
    Tick { value, text: without_zeros(&text(value)) }
}

/// A round number needs no digits that say so: `1.00 ms` is `1 ms` on an axis.
fn without_zeros(text: &str) -> String {
    let (number, rest) = match text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ',') {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    match number.contains('.') {
        true => format!("{}{rest}", number.trim_end_matches('0').trim_end_matches('.')),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::quantities::{amount_text, duration_text, rate_text};
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.text.as_str()).collect()
    }

    #[test]
    fn linear_axes_end_at_a_round_number() {
        let axis = Axis::from_zero(56_123.0, rate_text);
        assert_eq!(
            texts(&axis),
            ["0/s", "10,000/s", "20,000/s", "30,000/s", "40,000/s", "50,000/s", "60,000/s"]
        );
        assert_eq!((axis.place(0.0), axis.place(30_000.0), axis.place(60_000.0)), (0.0, 0.5, 1.0));
        assert_eq!(
            texts(&Axis::from_zero(0.93, amount_text)),
            ["0", "0.2", "0.4", "0.6", "0.8", "1"]
        );
    }

    #[test]
    fn nothing_and_nonsense_have_an_axis_too() {
        for high in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let axis = Axis::from_zero(high, amount_text);
            assert_eq!((axis.low, axis.high), (0.0, 1.0));
        }
        let axis = Axis::around([0.0, f64::NAN].into_iter(), amount_text);
        assert!(axis.place(0.0) == 0.0 && axis.place(5.0) == 1.0);
        assert_eq!(Axis::time(0.0).ticks.len(), 2);
    }

    #[test]
    fn far_values_get_a_logarithmic_axis() {
        let axis = Axis::around([340.0, 9_000.0].into_iter(), duration_text);
        assert!(axis.is_logarithmic());
        assert_eq!(texts(&axis), ["200 µs", "500 µs", "1 ms", "2 ms", "5 ms", "10 ms"]);
        assert!((axis.place(200.0), axis.place(10_000.0)) == (0.0, 1.0));
        assert!(axis.place(0.0) == 0.0, "0 has no logarithm");
        let wide = Axis::around([3.0, 3e6].into_iter(), duration_text);
        assert_eq!(
            texts(&wide),
            ["2 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s", "5 s"]
        );
        let near = Axis::around([340.0, 900.0].into_iter(), duration_text);
        assert!(!near.is_logarithmic() && near.ticks[0].value == 0.0);
    }

    #[test]
    fn times_have_round_steps_and_few_of_them() {
        assert_eq!(
            texts(&Axis::time(60.0)),
            ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]
        );
        assert_eq!(texts(&Axis::time(300.0)).last(), Some(&"5 min"));
        for end_s in [1.0, 7.0, 59.0, 3_600.0, 86_400.0, 1e6] {
            let count = Axis::time(end_s).ticks.len();
            assert!((2..=9).contains(&count), "{count} for {end_s}");
        }
    }

    #[test]
    fn each_nine_has_the_same_room() {
        let axis = Axis::percentiles(40_000.0);
        assert_eq!(texts(&axis), ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let nine = axis.place(100.0) - axis.place(10.0);
        assert!((axis.place(1_000.0) - axis.place(100.0) - nine).abs() < 1e-12);
        assert_eq!(axis.place(1.0), 0.0);
    }
}
