//! Reads the gateway's OpenMetrics page.
//!
//! A strict reader for the part of OpenMetrics 1.0 the gateway uses: whatever
//! it does not understand is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::mcp::Request;
use super::wire::Wire;

/// One page of metrics.
#[derive(Debug)]
pub(crate) struct Page {
    /// Metric families and their types.
    pub(crate) families: BTreeMap<String, String>,
    samples: Vec<Sample>,
}

/// One line with a value.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample {
    /// Name with its suffix.
    pub(crate) name: String,
    /// Labels in order.
    pub(crate) labels: Vec<(String, String)>,
    /// Value.
    pub(crate) value: f64,
}

impl Page {
    /// Fetches and parses `/metrics`.
    pub(crate) async fn fetch(admin: SocketAddr) -> Page {
        let mut wire = Wire::connect(admin).await.expect("connect to the admin address");
        let answer =
            wire.ask(&Request::page("/metrics").bytes(admin)).await.expect("fetch metrics");
        assert_eq!(answer.head.status, 200, "{answer:?}");
        let kind = answer.head.header("content-type").unwrap_or_default();
        assert!(kind.starts_with("application/openmetrics-text"), "content type is {kind:?}");
        let text = String::from_utf8(answer.body).expect("metrics are UTF-8");
        Page::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Parses a page.
    pub(crate) fn parse(text: &str) -> Result<Page, String> {
        let mut page = Page { families: BTreeMap::new(), samples: Vec::new() };
        let body = text.strip_suffix("# EOF\n").ok_or("the page does not end with `# EOF`")?;
        for line in body.lines() {
            page.take_line(line).map_err(|why| format!("{why}: {line:?}"))?;
        }
        Ok(page)
    }

    /// The sum of a metric's samples over all label sets, or `None` if it has none.
    pub(crate) fn sum(&self, name: &str) -> Option<f64> {
        let mut samples = self.named(name).peekable();
        samples.peek()?;
        Some(samples.map(|sample| sample.value).sum())
    }

    /// The sum of a metric's samples that are about this tool server.
    pub(crate) fn of_upstream(&self, name: &str, upstream: &str) -> f64 {
        let is_its = |(label, value): &(String, String)| label == "upstream" && value == upstream;
        let samples = self.named(name).filter(|sample| sample.labels.iter().any(is_its));
        samples.map(|sample| sample.value).sum()
    }

    /// A metric's samples.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    fn take_line(&mut self, line: &str) -> Result<(), &'static str> {
        if let Some(comment) = line.strip_prefix("# ") {
            return self.take_comment(comment);
        }
        let sample = parse_sample(line)?;
        if !self.has_family_of(&sample.name) {
            return Err("a sample without its family's TYPE before it");
        }
        if self
            .samples
            .iter()
            .any(|other| other.name == sample.name && other.labels == sample.labels)
        {
            return Err("the same sample twice");
        }
        self.samples.push(sample);
        Ok(())
    }

    fn take_comment(&mut self, comment: &str) -> Result<(), &'static str> {
        let mut words = comment.splitn(3, ' ');
        let (keyword, name) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if name.is_empty() {
            return Err("a comment without a metric's name");
        }
        match (keyword, words.next()) {
            ("TYPE", Some(kind)) => {
                let old = self.families.insert(name.to_owned(), kind.to_owned());
                if old.is_some() { Err("a TYPE given twice") } else { Ok(()) }
            }
            ("HELP" | "UNIT", Some(_)) => Ok(()),
            _ => Err("a comment that is neither TYPE, HELP, UNIT nor EOF"),
        }
    }

    fn has_family_of(&self, name: &str) -> bool {
        const SUFFIXES: [&str; 7] =
            ["", "_total", "_created", "_bucket", "_sum", "_count", "_info"];
        SUFFIXES
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .any(|family| self.families.contains_key(family))
    }
}

fn parse_sample(line: &str) -> Result<Sample, &'static str> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
    {
        return Err("a bad metric name");
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let value = value.split(' ').next().unwrap_or_default();
    let value = value.parse().map_err(|_| "a value that is no number")?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

type Labels = Vec<(String, String)>;

fn parse_labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let (value, after) = parse_quoted(after)?;
        labels.push((name.to_owned(), value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
}

fn parse_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                _ => return Err("a bad escape in a label"),
            },
            _ => value.push(c),
        }
    }
    Err("a label's value without its end")
}
