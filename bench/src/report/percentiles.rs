//! The histogram inside a [`Distribution`]: written, read, and walked by percentile.
//!
//! What is read may come from a file that anybody wrote, so it is bounded: by
//! [`HISTOGRAM_BYTES_MAX`] before it is decoded, and by what HdrHistogram's V2 format can
//! describe (a few MiB of counts) after that.

use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

use crate::outcome::Distribution;

/// Longest text of a histogram that is read.
pub const HISTOGRAM_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// Why a histogram could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HistogramError {
    /// There is none, although the distribution counts values.
    #[error("the distribution of {count} values has no histogram; was the file shortened?")]
    Missing {
        /// What the distribution counts.
        count: u64,
    },
    /// It is larger than any this tool writes.
    #[error("the histogram's text has {length} bytes, and {HISTOGRAM_BYTES_MAX} are read at most")]
    TooLong {
        /// Bytes of text.
        length: usize,
    },
    /// The text is not base64.
    #[error("read the histogram's base64 text")]
    Text(#[source] base64::DecodeError),
    /// The bytes are no HdrHistogram.
    #[error("read a histogram in HdrHistogram's V2 format")]
    Bytes(#[source] hdrhistogram::serialization::DeserializeError),
    /// It could not be put into that format.
    #[error("write a histogram in HdrHistogram's V2 format")]
    Write(#[source] hdrhistogram::serialization::V2DeflateSerializeError),
}

/// All that a [`Distribution`] says of a histogram of microseconds, the histogram included.
pub fn distribution(histogram: &Histogram<u64>) -> Result<Distribution, HistogramError> {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new().serialize(histogram, &mut bytes).map_err(HistogramError::Write)?;
    Ok(Distribution { histogram: STANDARD.encode(bytes), ..summary(histogram) })
}

/// The same without the histogram.
pub fn summary(histogram: &Histogram<u64>) -> Distribution {
    let at = |quantile| histogram.value_at_quantile(quantile);
    Distribution {
        count: histogram.len(),
        min: histogram.min(),
        mean: histogram.mean(),
        stdev: histogram.stdev(),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        p9999: at(0.9999),
        max: histogram.max(),
        histogram: String::new(),
    }
}

/// The histogram of a distribution; none if nothing was counted.
pub fn histogram(of: &Distribution) -> Result<Option<Histogram<u64>>, HistogramError> {
    if of.count == 0 {
        return Ok(None);
    }
    match of.histogram.len() {
        0 => return Err(HistogramError::Missing { count: of.count }),
        length if length > HISTOGRAM_BYTES_MAX => return Err(HistogramError::TooLong { length }),
        _ => {}
    }
    let bytes = STANDARD.decode(&of.histogram).map_err(HistogramError::Text)?;
    let mut reader = Deserializer::new();
    reader.deserialize(&mut Cursor::new(bytes)).map(Some).map_err(HistogramError::Bytes)
}

/// One step of the way to the maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile {
    /// The part of all values that are not above `us`, from 0 to 1.
    pub quantile: f64,
    /// The value, microseconds.
    pub us: u64,
    /// How many values are not above it.
    pub count: u64,
}

impl Percentile {
    /// One of this many values is above: `1/(1-p)`; infinite at the maximum.
    pub fn one_in(&self) -> f64 {
        1.0 / (1.0 - self.quantile)
    }
}

/// Steps that halve the distance to 100 %, `ticks_per_half` for each half, as HdrHistogram
/// prints them; the last one is the maximum.
pub fn steps(histogram: &Histogram<u64>, ticks_per_half: u32) -> Vec<Percentile> {
    let mut count = 0;
    histogram
        .iter_quantiles(ticks_per_half)
        .map(|step| {
            count += step.count_since_last_iteration();
            Percentile {
                quantile: step.quantile_iterated_to(),
                // The largest value of the last bucket may be above what was recorded.
                us: step.value_iterated_to().min(histogram.max()),
                count,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_to(count: u64) -> Histogram<u64> {
        let mut histogram = Histogram::new(3).expect("valid");
        for value in 1..=count {
            histogram.record(value).expect("in range");
        }
        histogram
    }

    #[test]
    fn a_histogram_survives_its_text() {
        let original = one_to(1_000);
        let written = distribution(&original).expect("written");
        assert_eq!((written.count, written.min, written.max), (1_000, 1, 1_000));
        assert_eq!((written.p50, written.p99, written.p999), (500, 990, 999));
        assert_eq!(histogram(&written).expect("read"), Some(original));
    }

    #[test]
    fn nothing_counted_needs_no_histogram() {
        assert_eq!(histogram(&Distribution::default()).expect("read"), None);
        assert_eq!(summary(&one_to(0)).count, 0);
    }

    #[test]
    fn what_is_no_histogram_is_refused_with_the_reason() {
        let with = |text: &str| Distribution {
            count: 3,
            histogram: text.to_owned(),
            ..Distribution::default()
        };
        for (text, expected) in [
            ("", "has no histogram"),
            ("<script>", "base64"),
            ("AAAA", "V2 format"),
            (&"A".repeat(HISTOGRAM_BYTES_MAX + 4), "bytes, and"),
        ] {
            let message = histogram(&with(text)).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn steps_halve_the_distance_and_end_at_the_maximum() {
        let steps = steps(&one_to(1_000), 1);
        let quantiles: Vec<f64> = steps.iter().take(4).map(|step| step.quantile).collect();
        assert_eq!(quantiles, [0.0, 0.5, 0.75, 0.875]);
        assert_eq!((steps[1].us, steps[1].count, steps[1].one_in()), (500, 500, 2.0));
        let last = steps.last().expect("some");
        assert_eq!((last.quantile, last.us, last.count), (1.0, 1_000, 1_000));
        assert!(last.one_in().is_infinite());
    }
}
