//! What it costs to find `method`, `id` and `params.name` in a body, and to know that all of it is JSON.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde::Deserialize;
use serde_json::value::RawValue;
use shardgate_proto::jsonrpc::{Message, ScanLimits, scan};
use simd_json::prelude::ValueAsScalar;

fn call(arguments: &str) -> Vec<u8> {
    format!(
        r#"{{"jsonrpc":"2.0","id":12345,"method":"tools/call","params":{{"name":"echo","arguments":{arguments},"_meta":{{"progressToken":"t-12345"}}}}}}"#
    )
    .into_bytes()
}

/// Bodies of about 200 bytes and 20 KB.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    let rows: Vec<String> = (0..290)
        .map(|row| {
            format!(r#"{{"row":{row},"name":"item {row}","price":{row}.25,"in_stock":true}}"#)
        })
        .collect();
    let message = "all work and no play makes a dull line, ".repeat(512);
    vec![
        ("200B", call(r#"{"message":"hello from a client with a short message of text","n":17}"#)),
        ("20KB_rows", call(&format!("{{\"rows\":[{}]}}", rows.join(",")))),
        ("20KB_string", call(&format!("{{\"message\":\"{message}\"}}"))),
        (
            "20KB_string_utf8",
            call(&format!("{{\"message\":\"{}\"}}", message.replace("dull", "dröge"))),
        ),
    ]
}

#[expect(dead_code, reason = "the fields are read by the benchmark's black box only")]
#[derive(Debug)]
struct Found {
    method_bytes: usize,
    id_bytes: usize,
    name_bytes: usize,
}

fn by_scan(body: &[u8]) -> Found {
    let Ok(Message::Single(envelope)) = scan(body, &ScanLimits::default()) else {
        panic!("no message");
    };
    Found {
        method_bytes: envelope.method().len(),
        id_bytes: envelope.id().map_or(0, |id| id.raw().len()),
        name_bytes: envelope.name().ok().flatten().map_or(0, |name| name.len()),
    }
}

fn by_tape(body: &mut [u8], buffers: &mut simd_json::Buffers) -> Found {
    let tape = simd_json::to_tape_with_buffers(body, buffers).expect("JSON");
    let value = tape.as_value();
    let name = value.get("params").and_then(|params| params.get("name"));
    Found {
        method_bytes: value
            .get("method")
            .and_then(|method| method.as_str().map(str::len))
            .unwrap_or(0),
        id_bytes: value.get("id").and_then(|id| id.as_u64()).map_or(0, |id| id as usize),
        name_bytes: name.and_then(|name| name.as_str().map(str::len)).unwrap_or(0),
    }
}

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    params: Params<'a>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

fn by_serde_json(body: &[u8]) -> Found {
    let call: Call<'_> = serde_json::from_slice(body).expect("JSON");
    Found {
        method_bytes: call.method.len(),
        id_bytes: call.id.get().len(),
        name_bytes: call.params.name.len(),
    }
}

fn envelope(criterion: &mut Criterion) {
    for (size, body) in bodies() {
        let mut group = criterion.benchmark_group(size);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("scan", |bencher| bencher.iter(|| by_scan(black_box(&body))));
        let mut buffers = simd_json::Buffers::new(body.len());
        let mut copy = body.clone();
        // The copy is part of the cost: the tape is built in place and changes its input.
        group.bench_function("simd_json_tape_and_copy", |bencher| {
            bencher.iter(|| {
                copy.copy_from_slice(&body);
                by_tape(black_box(&mut copy), &mut buffers)
            });
        });
        group.bench_function("simd_json_tape", |bencher| {
            bencher.iter_batched_ref(
                || body.clone(),
                |body| by_tape(black_box(body), &mut buffers),
                BatchSize::SmallInput,
            );
        });
        group.bench_function("serde_json_struct", |bencher| {
            bencher.iter(|| by_serde_json(black_box(&body)));
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(std::time::Duration::from_secs(2)).warm_up_time(std::time::Duration::from_millis(500));
    targets = envelope
}
criterion_main!(benches);
