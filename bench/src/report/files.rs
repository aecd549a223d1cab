//! What a run leaves behind for other tools: JSON, CSV, HdrHistogram's text, the page.
//!
//! The JSON file is the run itself; the others can be made from it again, which is what
//! `shardgate-bench report` does. A file that cannot be written never keeps the others
//! from being written: a long run is not lost to one bad path.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::html;
use super::percentiles::{self, HistogramError, Percentile};
use crate::outcome::{Distribution, FORMAT, Outcome};

/// Largest file that is read; a day of seconds has a fifteenth of it.
pub const OUTCOME_BYTES_MAX: u64 = 256 * 1_024 * 1_024;

/// The columns of the CSV file.
pub const CSV_HEADER: &str = "at_s,offered,sent,completed,shed,errors,events,connections,\
    p50_us,p99_us,max_us,server_cores,server_resident_bytes";

/// Lines between a percentile and the one that halves its distance to 100 %.
const HGRM_TICKS_PER_HALF: u32 = 5;
/// HdrHistogram's plotters take milliseconds.
const HGRM_US_PER_UNIT: f64 = 1_000.0;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file system refused.
    #[error("write {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The run's histogram cannot be used.
    #[error("make {} from the run's latencies", path.display())]
    Histogram {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: HistogramError,
    },
    /// The run cannot be put into JSON.
    #[error("put the run into JSON for {}", path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Why a run could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("read {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The file is larger than any run.
    #[error(
        "{} has more than {OUTCOME_BYTES_MAX} bytes; that is no result of shardgate-bench",
        path.display()
    )]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// The file is no run.
    #[error(
        "{} is no result of `shardgate-bench run --json` (format {FORMAT})", path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// Where it stops being one.
        #[source]
        source: serde_json::Error,
    },
    /// The file is of another version.
    #[error(
        "{} has format {found}, and shardgate-bench {} reads format {FORMAT}; use the version \
         that wrote it, or run the test again",
        path.display(),
        env!("CARGO_PKG_VERSION")
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
}

/// Which files a run leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    /// The run as it is.
    pub json: Option<PathBuf>,
    /// One line per second.
    pub csv: Option<PathBuf>,
    /// Corrected latencies as HdrHistogram prints them.
    pub hgrm: Option<PathBuf>,
    /// The page.
    pub html: Option<PathBuf>,
}

impl Outputs {
    /// Writes all that are asked for, whatever happens to the others.
    pub fn write(&self, outcome: &Outcome) -> Vec<WriteError> {
        type Content = fn(&Path, &Outcome) -> Result<String, WriteError>;
        let files: [(&Option<PathBuf>, Content); 4] = [
            (&self.json, |path, outcome| {
                json(outcome).map_err(|source| WriteError::Json { path: path.to_owned(), source })
            }),
            (&self.csv, |_, outcome| Ok(csv(outcome))),
            (&self.hgrm, |path, outcome| {
                hgrm(&outcome.latency.corrected)
                    .map_err(|source| WriteError::Histogram { path: path.to_owned(), source })
            }),
            (&self.html, |_, outcome| Ok(html::page(outcome))),
        ];
        let asked = files.iter().filter_map(|(path, content)| Some((path.as_ref()?, content)));
        asked
            .filter_map(|(path, content)| {
                let text = match content(path, outcome) {
                    Ok(text) => text,
                    Err(error) => return Some(error),
                };
                let refused = |source| WriteError::File { path: path.clone(), source };
                fs::write(path, text).map_err(refused).err()
            })
            .collect()
    }
}

/// The run as JSON, ended by a line end.
pub fn json(outcome: &Outcome) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(outcome).map(|text| text + "\n")
}

/// The run in a file that [`json`] made.
pub fn read(path: &Path) -> Result<Outcome, ReadError> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let refused = |source| ReadError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(refused)?;
    let mut bytes = Vec::new();
    file.take(OUTCOME_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() as u64 > OUTCOME_BYTES_MAX {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }
    let content = |source| ReadError::Content { path: path.to_owned(), source };
    // The format comes first: the rest of another one would fail with a worse message.
    let Versioned { format } = serde_json::from_slice(&bytes).map_err(content)?;
    if format != FORMAT {
        return Err(ReadError::Format { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(&bytes).map_err(content)
}

/// One line per second; what could not be seen of the server is an empty field.
pub fn csv(outcome: &Outcome) -> String {
    let mut text = format!("{CSV_HEADER}\n");
    for second in &outcome.seconds {
        let cores = second.server_cores.map_or(String::new(), |cores| format!("{cores:.3}"));
        let resident =
            second.server_resident_bytes.map_or(String::new(), |bytes| bytes.to_string());
        let _ = writeln!(
            text,
            "{:.3},{},{},{},{},{},{},{},{},{},{},{cores},{resident}",
            second.at_s,
            second.offered,
            second.sent,
            second.completed,
            second.shed,
            second.errors,
            second.events,
            second.connections,
            second.p50,
            second.p99,
            second.max,
        );
    }
    text
}

/// The distribution as HdrHistogram's `outputPercentileDistribution` prints it, in
/// milliseconds; `hdr-plot` and HdrHistogram's own plotter read it.
pub fn hgrm(of: &Distribution) -> Result<String, HistogramError> {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let unit = |us: f64| us / HGRM_US_PER_UNIT;
    let histogram = percentiles::histogram(of)?;
    let mut layout = (0, 0);
    if let Some(histogram) = &histogram {
        for step in percentiles::steps(histogram, HGRM_TICKS_PER_HALF) {
            let Percentile { quantile, us, count } = step;
            let _ = write!(text, "{:>12.3} {quantile:>2.12} {count:>10}", unit(us as f64));
            // The original leaves infinity out.
            if step.one_in().is_finite() {
                let _ = write!(text, " {:>14.2}", step.one_in());
            }
            text.push('\n');
        }
        layout = buckets(histogram.high(), histogram.sigfig());
    }
    let _ = write!(
        text,
        "#[Mean    = {:>12.3}, StdDeviation   = {:>12.3}]\n\
         #[Max     = {:>12.3}, Total count    = {:>12}]\n\
         #[Buckets = {:>12}, SubBuckets     = {:>12}]\n",
        unit(of.mean),
        unit(of.stdev),
        unit(of.max as f64),
        of.count,
        layout.0,
        layout.1,
    );
    Ok(text)
}

/// Buckets and sub-buckets of a histogram that begins at 1: each bucket doubles the values
/// of the one before, and has as many sub-buckets as its digits need.
fn buckets(high: u64, digits: u8) -> (u32, u64) {
    let sub_buckets = (2 * 10_u64.pow(u32::from(digits))).next_power_of_two();
    let mut count = 1;
    let mut covered = sub_buckets;
    while covered <= high {
        count += 1;
        match covered.checked_mul(2) {
            Some(doubled) => covered = doubled,
            None => break,
        }
    }
    (count, sub_buckets)
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::sample;

    /// What HdrHistogramJS 3.0 prints for the same values (it gives the maximum as 250.000,
    /// the lower end of its bucket).
    const REFERENCE: &str = "       Value     Percentile TotalCount 1/(1-Percentile)

       0.037 0.000000000000          1           1.00
       0.407 0.100000000000         11           1.11
       0.777 0.200000000000         21           1.25
       1.147 0.300000000000         31           1.43
       1.517 0.400000000000         41           1.67
       1.887 0.500000000000         51           2.00
       2.073 0.550000000000         56           2.22
       2.257 0.600000000000         61           2.50
       2.443 0.650000000000         66           2.86
       2.627 0.700000000000         71           3.33
       2.813 0.750000000000         76           4.00
       2.923 0.775000000000         79           4.44
       2.997 0.800000000000         81           5.00
       3.109 0.825000000000         84           5.71
       3.183 0.850000000000         86           6.67
       3.293 0.875000000000         89           8.00
       3.331 0.887500000000         90           8.89
       3.367 0.900000000000         91          10.00
       3.441 0.912500000000         93          11.43
       3.479 0.925000000000         94          13.33
       3.515 0.937500000000         95          16.00
       3.553 0.943750000000         96          17.78
       3.553 0.950000000000         96          20.00
       3.589 0.956250000000         97          22.86
       3.627 0.962500000000         98          26.67
       3.627 0.968750000000         98          32.00
       3.663 0.971875000000         99          35.56
       3.663 0.975000000000         99          40.00
       3.663 0.978125000000         99          45.71
       3.701 0.981250000000        100          53.33
       3.701 0.984375000000        100          64.00
       3.701 0.985937500000        100          71.11
       3.701 0.987500000000        100          80.00
       3.701 0.989062500000        100          91.43
     250.111 0.990625000000        101         106.67
     250.111 1.000000000000        101
#[Mean    =        4.326, StdDeviation   =       24.595]
#[Max     =      250.111, Total count    =          101]
#[Buckets =           22, SubBuckets     =         2048]
";

    #[test]
    fn hgrm_is_what_other_implementations_print() {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("valid");
        for value in 1..=100 {
            histogram.record(value * 37).expect("in range");
        }
        histogram.record(250_000).expect("in range");
        let distribution = percentiles::distribution(&histogram).expect("written");
        let text = hgrm(&distribution).expect("printed");
        for (ours, theirs) in text.lines().zip(REFERENCE.lines()) {
            assert_eq!(ours, theirs);
        }
        assert_eq!(text, REFERENCE);
    }

    #[test]
    fn hgrm_of_nothing_has_no_lines() {
        let text = hgrm(&Distribution::default()).expect("printed");
        assert_eq!(text.lines().count(), 5, "{text}");
    }

    #[test]
    fn csv_has_a_line_per_second_and_empty_fields_for_the_unknown() {
        let mut outcome = sample::outcome();
        outcome.seconds.truncate(2);
        outcome.seconds[0].server_cores = None;
        outcome.seconds[0].server_resident_bytes = None;
        let text = csv(&outcome);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let columns = CSV_HEADER.split(',').count();
        assert!(lines.iter().all(|line| line.split(',').count() == columns), "{text}");
        assert!(lines[1].ends_with(",,"), "{text}");
        let second = &outcome.seconds[1];
        let expected = format!("{:.3},{},{}", second.at_s, second.offered, second.sent);
        assert!(lines[2].starts_with(&expected), "{text}");
        assert!(lines[2].ends_with(&second.server_resident_bytes.expect("seen").to_string()));
    }

    #[test]
    fn a_run_survives_its_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run.json");
        let outcome = sample::outcome();
        let outputs = Outputs { json: Some(path.clone()), ..Outputs::default() };
        assert!(outputs.write(&outcome).is_empty());
        assert_eq!(read(&path).expect("read"), outcome);
    }

    #[test]
    fn one_bad_path_does_not_cost_the_other_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| Some(directory.path().join(name));
        let outputs = Outputs {
            json: at("missing/run.json"),
            csv: at("run.csv"),
            hgrm: at("run.hgrm"),
            html: at("run.html"),
        };
        let errors = outputs.write(&sample::outcome());
        assert_eq!(errors.len(), 1);
        assert!(errors[0].to_string().contains("missing/run.json"), "{}", errors[0]);
        for name in ["run.csv", "run.hgrm", "run.html"] {
            let length = fs::metadata(directory.path().join(name)).expect("written").len();
            assert!(length > 1_000, "{name}: {length}");
        }
    }

    #[test]
    fn what_is_no_run_is_refused_with_the_reason() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run.json");
        for (content, expected) in [
            ("not JSON", "is no result of"),
            ("{}", "is no result of"),
            (r#"{"format":1}"#, "is no result of"),
            (r#"{"format":99}"#, "has format 99"),
        ] {
            fs::write(&path, content).expect("written");
            let message = read(&path).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = read(&directory.path().join("none")).unwrap_err().to_string();
        assert!(message.starts_with("read ") && message.ends_with("none"), "{message}");
    }
}
