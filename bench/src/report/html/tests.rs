//! The page as a browser gets it.

use std::collections::BTreeSet;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::*;
use crate::outcome::{ErrorKind, Latencies, Totals};
use crate::report::sample;

/// Elements that HTML does not close.
const VOID: [&str; 1] = ["meta"];

/// What a page holds, after its elements have been found to be closed in order.
#[derive(Default)]
struct Read {
    elements: Vec<String>,
    attributes: Vec<(String, String)>,
    text: String,
}

fn read(page: &str) -> Read {
    let body = page.strip_prefix("<!DOCTYPE html>").expect("the doctype comes first");
    let mut reader = Reader::from_str(body);
    // Void elements are told apart below.
    reader.config_mut().check_end_names = false;
    let mut open: Vec<String> = Vec::new();
    let mut read = Read::default();
    loop {
        match reader.read_event().expect("well-formed") {
            Event::Start(element) => {
                let name = name_of(&element);
                read.attributes.extend(attributes_of(&element));
                if !VOID.contains(&name.as_str()) {
                    open.push(name.clone());
                }
                read.elements.push(name);
            }
            Event::End(element) => {
                let name = element.name().as_ref().to_owned();
                assert_eq!(open.pop(), Some(name), "elements are closed in order");
            }
            Event::Text(text) => {
                // Style and script are no text.
                if !matches!(open.last().map(String::as_str), Some("style" | "script")) {
                    read.text.push_str(&text);
                }
            }
            Event::GeneralRef(reference) => {
                read.text.push_str(&format!("&{};", &*reference));
            }
            Event::Eof => break,
            Event::Empty(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::PI(_)
            | Event::DocType(_) => panic!("nothing else is written"),
        }
    }
    assert!(open.is_empty(), "still open: {open:?}");
    read
}

fn name_of(element: &BytesStart<'_>) -> String {
    element.name().as_ref().to_owned()
}

fn attributes_of(element: &BytesStart<'_>) -> Vec<(String, String)> {
    element
        .html_attributes()
        .map(|attribute| {
            let attribute = attribute.expect("well-formed, and not given twice");
            (attribute.key.as_ref().to_owned(), attribute.value.into_owned())
        })
        .collect()
}

#[test]
fn the_page_is_well_formed_and_complete() {
    let outcome = sample::outcome();
    let page = page(&outcome);
    let read = read(&page);
    let count = |name: &str| read.elements.iter().filter(|element| *element == name).count();
    assert_eq!((count("svg"), count("h1"), count("script")), (7, 1, 1));
    for part in [
        "Latency by percentile",
        "Requests per second",
        "Open connections",
        "Shed and failed per second",
        "Latency, corrected",
        "Server: processor, in cores",
        "Server: resident memory",
        "99.99 %",
        "warm-up",
        &outcome.verdict.sentence,
        "Not kept: p99&gt;5ms",
        "resources/read",
        "no answer to resources/read within 10 s",
        "net.core.somaxconn",
        "--fail-if &apos;p99&gt;5ms,errors&gt;0&apos;",
        "6.18.0",
    ] {
        let plain = part.replace("&apos;", "'");
        assert!(read.text.contains(&plain), "{part} is missing in:\n{}", read.text);
    }
    assert!(!page.contains("NaN") && !page.contains("inf "), "numbers are finite");
}

#[test]
fn the_page_loads_nothing() {
    let page = page(&sample::outcome());
    let read = read(&page);
    let elements: BTreeSet<&str> = read.elements.iter().map(String::as_str).collect();
    for element in ["link", "img", "iframe", "object", "embed", "image", "use", "base", "a"] {
        assert!(!elements.contains(element), "{element}");
    }
    for (name, _) in &read.attributes {
        assert!(!["src", "href", "xlink:href", "srcset", "action"].contains(&name.as_str()));
    }
    for part in ["@import", "url(", "fetch(", "XMLHttpRequest", "import(", "innerHTML"] {
        assert!(!STYLE.contains(part) && !SCRIPT.contains(part), "{part}");
    }
    // The URL under load is told, and is no link.
    let outside = page.matches("http://").count() + page.matches("https://").count();
    assert_eq!(outside, page.matches("http://127.0.0.1:8080/mcp").count());
    let policy = ("content".to_owned(), POLICY.to_owned());
    assert!(read.attributes.contains(&policy));
}

#[test]
fn hostile_texts_stay_texts() {
    let hostile = r#""'></td></style></script><script>alert(1)</script><img src=x onerror=y>&"#;
    let mut outcome = sample::outcome();
    let clean = read(&page(&outcome));
    let text = || hostile.to_owned();
    outcome.version = text();
    outcome.command = vec![text()];
    outcome.plan.url = text();
    outcome.plan.revision = text();
    outcome.plan.workload = text();
    outcome.host.cpu = text();
    outcome.host.kernel = text();
    outcome.host.settings.insert(text(), text());
    outcome.verdict.sentence = text();
    outcome.verdict.broken_thresholds = vec![text()];
    let operation = outcome.operations["ping"].clone();
    outcome.operations.insert(text(), operation);
    outcome.errors.insert(text(), ErrorKind { count: 1, example: text() });
    outcome.server.as_mut().expect("seen").requests_by_shard.insert(text(), 1);
    let page = page(&outcome);
    let read = read(&page);
    let elements = |read: &Read| read.elements.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(elements(&read), elements(&clean));
    let scripts = read.elements.iter().filter(|element| *element == "script").count();
    assert_eq!(scripts, 1, "only our own");
    assert!(!page.contains("<img") && page.contains("&lt;script&gt;"));
    assert!(read.attributes.iter().all(|(name, _)| !name.starts_with("on")));
}

#[test]
fn an_empty_run_has_a_page_too() {
    let mut outcome = sample::outcome();
    outcome.latency = Latencies::default();
    outcome.totals = Totals::default();
    outcome.seconds.clear();
    outcome.stages.clear();
    outcome.operations.clear();
    outcome.errors.clear();
    outcome.server = None;
    outcome.verdict.interrupted = true;
    let page = page(&outcome);
    let read = read(&page);
    assert!(read.text.contains("No request was answered"), "{}", read.text);
    assert!(read.text.contains("interrupted"), "{}", read.text);
    assert!(!page.contains("NaN") && !read.elements.iter().any(|element| element == "svg"));
}

/// `SHARDGATE_WRITE_PAGE=FILE` writes the page of the sample, to be looked at.
#[test]
fn the_page_can_be_looked_at() {
    let page = page(&sample::outcome());
    if let Some(path) = std::env::var_os("SHARDGATE_WRITE_PAGE") {
        std::fs::write(&path, &page).expect("the file can be written");
    }
    assert!(page.len() < 300_000, "a minute fits into 300 kB: {}", page.len());
}
