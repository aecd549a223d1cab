//! Messages in tables: what is read, what is refused, at which byte and with which code.

use super::*;

fn read(text: &[u8]) -> Result<Message<'_>, Fault<'_>> {
    scan(text, &ScanLimits::default())
}

fn single(text: &str) -> Envelope<'_> {
    match read(text.as_bytes()) {
        Ok(Message::Single(envelope)) => envelope,
        other => panic!("{text}: {other:?}"),
    }
}

fn problem(text: impl AsRef<[u8]>) -> (Problem, usize) {
    let text = text.as_ref();
    match read(text) {
        Err(fault) => (fault.problem, fault.at),
        Ok(message) => panic!("{}: {message:?}", String::from_utf8_lossy(text)),
    }
}

/// A request with `members` behind the usual ones.
fn request(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"m"{members}}}"#)
}

#[test]
fn a_tool_call_is_read_as_ranges() {
    let text = r#" {"jsonrpc":"2.0","id":"a\u0062","method":"tools\/call","params":{"name":"echo","arguments":{"name":1,"_meta":[{}]},"_meta":{"progressToken":7,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"a":[1,2]},"io.modelcontextprotocol/clientInfo":{},"io.modelcontextprotocol/logLevel":"info"}}} "#;
    let envelope = single(text);
    assert_eq!(envelope.kind(), Kind::Request(envelope.id().unwrap()));
    assert_eq!(envelope.id().unwrap().raw(), br#""a\u0062""#);
    assert_eq!(&text[envelope.id_range().unwrap()], r#""a\u0062""#);
    assert_eq!(envelope.method(), "tools/call");
    assert_eq!(envelope.name(), Ok(Some("echo".into())));
    assert_eq!(&text[envelope.name_range().unwrap()], "\"echo\"");
    assert!(envelope.params().unwrap().starts_with(b"{\"name\""));
    assert_eq!(envelope.progress_token().unwrap().unwrap().raw(), b"7");
    assert_eq!(envelope.protocol_version(), Ok(Some("2026-07-28".into())));
    assert_eq!(envelope.client_capabilities(), Some(&br#"{"a":[1,2]}"#[..]));
    assert_eq!(envelope.client_info(), Some(&b"{}"[..]));
    assert_eq!(envelope.log_level(), Ok(Some("info".into())));
    assert!(envelope.meta().unwrap().starts_with(b"{\"progressToken\""));
    assert_eq!(
        (envelope.uri(), envelope.task_id(), envelope.cursor()),
        (Ok(None), Ok(None), Ok(None))
    );
}

#[test]
fn names_spelled_with_escapes_are_the_same_names() {
    let text = r#"{"\u006asonrpc":"\u0032.0","i\u0064":1,"\u006dethod":"tools/call","par\u0061ms":{"n\u0061me":"\ud83d\ude00","_met\u0061":{"progressT\u006fken":"t"}}}"#;
    let envelope = single(text);
    assert_eq!(envelope.method(), "tools/call");
    assert_eq!(envelope.name(), Ok(Some("😀".into())));
    assert_eq!(envelope.progress_token().unwrap().unwrap().raw(), b"\"t\"");
}

#[test]
fn each_kind_of_message_is_told() {
    assert_eq!(single(r#"{"jsonrpc":"2.0","method":"m"}"#).kind(), Kind::Notification);
    let result = single(r#"{"result":[1],"id":"x","jsonrpc":"2.0"}"#);
    assert!(matches!(result.kind(), Kind::Result(id) if id.raw() == b"\"x\""));
    assert_eq!(result.result(), Some(&b"[1]"[..]));
    assert_eq!(result.method(), "");
    let error =
        single(r#"{"jsonrpc":"2.0","id":-3,"error":{"message":"m","code":-32601,"data":[]}}"#);
    assert!(
        matches!(error.kind(), Kind::Error { id: Some(id), code: -32601 } if id.raw() == b"-3")
    );
    assert!(error.error().unwrap().ends_with(b"[]}"));
    for nameless in ["", r#""id":null,"#] {
        let text = format!(r#"{{"jsonrpc":"2.0",{nameless}"error":{{"code":1,"message":""}}}}"#);
        assert_eq!(single(&text).kind(), Kind::Error { id: None, code: 1 });
    }
    let cancelled = single(
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"r","progressToken":2,"uri":"u","taskId":"t","cursor":"c"}}"#,
    );
    assert_eq!(cancelled.request_id().unwrap().unwrap().raw(), b"\"r\"");
    assert_eq!(cancelled.reported_progress_token().unwrap().unwrap().raw(), b"2");
    assert_eq!(cancelled.uri(), Ok(Some("u".into())));
    assert_eq!(cancelled.task_id(), Ok(Some("t".into())));
    assert_eq!(cancelled.cursor(), Ok(Some("c".into())));
}

#[test]
fn texts_that_are_no_json_are_parse_errors_at_their_byte() {
    let table: &[(&[u8], Problem, usize)] = &[
        (b"", Problem::End, 0),
        (b"  ", Problem::End, 2),
        (b"\xEF\xBB\xBF{}", Problem::ByteOrderMark, 0),
        (b"{", Problem::End, 1),
        (b"{\"a\"", Problem::End, 4),
        (b"{\"a\":", Problem::End, 5),
        (b"{\"a\":1", Problem::End, 6),
        (b"{\"a\":1,", Problem::End, 7),
        (b"{\"a\":1,}", Problem::Key, 7),
        (b"{a:1}", Problem::Key, 1),
        (b"{'a':1}", Problem::Key, 1),
        (b"{\"a\" 1}", Problem::Colon, 5),
        (b"{\"a\":1 \"b\":2}", Problem::CommaOrBrace, 7),
        (b"{\"a\":1]", Problem::CommaOrBrace, 6),
        (b"{\"a\":[1}", Problem::CommaOrBracket, 7),
        (b"{\"a\":{\"b\":1]}", Problem::CommaOrBrace, 11),
        (b"{\"a\":[1,]}", Problem::Value, 8),
        (b"{\"a\":}", Problem::Value, 5),
        (b"{} {}", Problem::Trailing, 3),
        (b"{}\0", Problem::Trailing, 2),
        (b"{}x", Problem::Trailing, 2),
        (b"[1] 2", Problem::Trailing, 4),
        (b"{\"a\":tru}", Problem::Value, 5),
        (b"{\"a\":True}", Problem::Value, 5),
        (b"{\"a\":NaN}", Problem::Value, 5),
        (b"{\"a\":-Infinity}", Problem::Number, 6),
        (b"{\"a\":01}", Problem::CommaOrBrace, 6),
        (b"{\"a\":+1}", Problem::Value, 5),
        (b"{\"a\":.5}", Problem::Value, 5),
        (b"{\"a\":1.}", Problem::Number, 7),
        (b"{\"a\":1e}", Problem::Number, 7),
        (b"{\"a\":1e+}", Problem::Number, 8),
        (b"{\"a\":-}", Problem::Number, 6),
        (b"{\"a\":0x1}", Problem::CommaOrBrace, 6),
        (b"{\"a\":\"\n\"}", Problem::ControlByte, 6),
        (b"{\"a\":\"\0\"}", Problem::ControlByte, 6),
        (b"{\"a\":\"\\x\"}", Problem::Escape, 7),
        (b"{\"a\":\"\\u12g4\"}", Problem::Escape, 10),
        (b"{\"a\":\"\\u12", Problem::End, 10),
        (b"{\"a\":\"\\", Problem::End, 7),
        (b"{\"a\":\"abc", Problem::End, 9),
        (b"{\"a\":\"\xff\"}", Problem::Utf8, 6),
        (b"{\"a\":\"\xc0\xaf\"}", Problem::Utf8, 6),
        (b"{\"a\":\"\xed\xa0\x80\"}", Problem::Utf8, 6),
        (b"{\"a\":\"\xf4\x90\x80\x80\"}", Problem::Utf8, 6),
        (b"{\"a\":\"\xe2\x82\"}", Problem::Utf8, 6),
        (b"{\"\xff\":1}", Problem::Utf8, 2),
        (b"{\"a\":\xc2\xa01}", Problem::Value, 5),
        (b"// x\n{}", Problem::Value, 0),
    ];
    for (text, wanted, at) in table {
        assert_eq!(problem(text), (*wanted, *at), "{:?}", String::from_utf8_lossy(text));
        assert_eq!(wanted.code(), ErrorCode::PARSE_ERROR);
    }
}

#[test]
fn faults_are_found_deep_in_long_strings() {
    for length in [0, 7, 8, 9, 31, 32, 33, 63, 64, 65, 95, 96, 97, 127, 128, 129, 500] {
        let plain = "x".repeat(length);
        let ok = request(&format!(r#","params":{{"name":"{plain}","uri":"{plain}\"é"}}"#));
        let envelope = single(&ok);
        assert_eq!(envelope.name(), Ok(Some(plain.as_str().into())));
        assert_eq!(envelope.uri(), Ok(Some(format!("{plain}\"é").into())));
        for (bad, wanted) in [("\n", Problem::ControlByte), ("\\q", Problem::Escape)] {
            let text = request(&format!(r#","params":{{"name":"{plain}{bad}{plain}"}}"#));
            assert_eq!(problem(&text).0, wanted, "{length}");
        }
        let mut text = request(&format!(r#","params":{{"name":"{plain}?{plain}"}}"#)).into_bytes();
        let at = text.iter().position(|byte| *byte == b'?').unwrap();
        text[at] = 0xff;
        assert_eq!(problem(&text), (Problem::Utf8, at));
    }
}

#[test]
fn json_that_is_no_message_is_refused_with_its_id() {
    let one = Some(&b"1"[..]);
    let table: &[(&str, Problem, Option<&[u8]>)] = &[
        ("3", Problem::NoObject, None),
        ("\"x\"", Problem::NoObject, None),
        ("null", Problem::NoObject, None),
        ("{}", Problem::Version, None),
        (r#"{"id":1,"method":"m"}"#, Problem::Version, one),
        (r#"{"jsonrpc":"1.0","id":1,"method":"m"}"#, Problem::Version, one),
        (r#"{"jsonrpc":2.0,"id":1,"method":"m"}"#, Problem::Version, one),
        (r#"{"jsonrpc":"2.0"}"#, Problem::Nothing, None),
        (r#"{"jsonrpc":"2.0","id":1}"#, Problem::Nothing, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":2}"#, Problem::MethodKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":null}"#, Problem::MethodKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, Problem::MethodKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","result":1}"#, Problem::MethodAndOutcome, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","error":{}}"#, Problem::MethodAndOutcome, one),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{}}"#, Problem::ResultAndError, one),
        (r#"{"jsonrpc":"2.0","result":1}"#, Problem::IdMissing, None),
        (r#"{"jsonrpc":"2.0","id":1,"error":1}"#, Problem::ErrorKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"error":{}}"#, Problem::ErrorKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":"1","message":""}}"#, Problem::ErrorKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1.5,"message":""}}"#, Problem::ErrorKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#, Problem::ErrorKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":2}}"#, Problem::ErrorKind, one),
        (
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"code":2,"message":""}}"#,
            Problem::ErrorKind,
            one,
        ),
        (r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":true,"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":{},"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":1e3,"method":"m"}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":null,"result":1}"#, Problem::IdKind, None),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":3}"#, Problem::ParamsKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":null}"#, Problem::ParamsKind, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#, Problem::ParamsArray, one),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":[]}}"#, Problem::MetaKind, one),
    ];
    for (text, wanted, id) in table {
        let fault = read(text.as_bytes()).expect_err(text);
        assert_eq!((fault.problem, fault.id.map(Id::raw)), (*wanted, *id), "{text}");
        assert_ne!(fault.code(), ErrorCode::PARSE_ERROR);
    }
    assert_eq!(Problem::ParamsArray.code(), ErrorCode::INVALID_PARAMS);
    assert_eq!(Problem::ParamsKind.code(), ErrorCode::INVALID_REQUEST);
}

#[test]
fn members_we_route_by_must_not_have_a_twin() {
    let table = [
        (r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"m"}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","method":"m"}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","\u006dethod":"x"}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{},"params":{}}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{},"params":[]}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"a","n\u0061me":"b"}}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"uri":"a","uri":"a"}}"#, true),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{},"_meta":{}}}"#, true),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"a","io.modelcontextprotocol\/protocolVersion":"b"}}}"#,
            true,
        ),
        (r#"{"jsonrpc":"2.0","id":1,"method":"m","id":2}"#, false),
        (r#"{"jsonrpc":"2.0","id":1,"result":1,"result":1}"#, true),
    ];
    for (text, id_is_clear) in table {
        let fault = read(text.as_bytes()).expect_err(text);
        assert_eq!(fault.problem, Problem::Repeated, "{text}");
        assert_eq!(fault.id.is_some(), id_is_clear, "{text}");
    }
    // The same names elsewhere are none of our business.
    single(&request(
        r#","x":1,"x":2,"params":{"arguments":{"name":1,"name":2},"method":"x","name":"n","id":3,"a":1,"a":2}"#,
    ));
}

#[test]
fn a_parse_error_outweighs_what_is_wrong_before_it() {
    assert_eq!(problem(r#"{"id":1,"id":2,"params":[],"x":}"#), (Problem::Value, 31));
    assert_eq!(problem("{\"id\":1,\"id\":2,\"x\":\"\u{e9}\"").0, Problem::End);
}

#[test]
fn parameters_of_the_wrong_kind_are_invalid_params() {
    let text = request(
        r#","params":{"name":3,"uri":"\udc00","requestId":1.5,"_meta":{"progressToken":null}}"#,
    );
    let envelope = single(&text);
    let faults = [
        envelope.name().unwrap_err(),
        envelope.uri().unwrap_err(),
        envelope.request_id().unwrap_err(),
        envelope.progress_token().unwrap_err(),
    ];
    for fault in faults {
        assert_eq!((fault.code(), fault.id), (ErrorCode::INVALID_PARAMS, envelope.id()));
    }
    assert_eq!(&text[faults[0].at..=faults[0].at], "3");
}

fn nested(depth: usize) -> String {
    let levels = depth - 1;
    request(&format!(r#","x":{}{}"#, "[".repeat(levels), "]".repeat(levels)))
}

#[test]
fn depth_is_bounded_and_costs_no_stack() {
    single(&nested(DEPTH_MAX));
    let (deep, at) = problem(nested(DEPTH_MAX + 1));
    assert_eq!(
        (deep, at),
        (Problem::Depth, request("").len() - 1 + r#","x":"#.len() + DEPTH_MAX - 1)
    );
    for opening in ["[", "{\"a\":", "[{\"params\":"] {
        assert_eq!(problem(opening.repeat(10_000)).0, Problem::Depth);
        assert_eq!(
            problem(request(&format!(r#","params":{{"_meta":{{"x":{}"#, opening.repeat(10_000)))).0,
            Problem::Depth
        );
    }
    let shallow = ScanLimits { depth_max: 2, ..ScanLimits::default() };
    let deep = request(r#","params":{"_meta":{}}"#);
    assert_eq!(scan(deep.as_bytes(), &shallow).unwrap_err().problem, Problem::Depth);
    assert!(scan(request(r#","params":{}"#).as_bytes(), &shallow).is_ok());
    let none = ScanLimits { depth_max: 0, ..ScanLimits::default() };
    assert!(scan(b"{}", &none).is_err() && scan(b"[]", &none).is_err());
}

#[test]
fn ids_are_bounded_and_compared_by_meaning() {
    let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"m"}}"#, "x".repeat(ID_BYTES_MAX));
    assert_eq!(problem(&long).0, Problem::IdLarge);
    let (one, other, third) = (
        request(""),
        request("").replace('1', r#""\u0031""#),
        request("").replace(":1,", r#":"1","#),
    );
    let (one, other, third) = (single(&one), single(&other), single(&third));
    let ids = [one.id().unwrap(), other.id().unwrap(), third.id().unwrap()];
    assert!(ids[1].means(ids[2]) && ids[0].means(ids[0]));
    assert!(!ids[0].means(ids[1]) && !ids[0].means(ids[2]));
}

#[test]
fn batches_are_judged_message_by_message() {
    let text = r#" [{"jsonrpc":"2.0","id":1,"method":"a"}, 3,[],{"jsonrpc":"2.0","method":"b"},{"id":7,"jsonrpc":"2.0"}] "#;
    let at = |element: &str| text.find(element).unwrap();
    let Ok(Message::Batch(batch)) = read(text.as_bytes()) else { panic!("no batch") };
    assert_eq!(batch.len(), 5);
    let found: Vec<_> = batch
        .messages()
        .map(|message| match message {
            Ok(envelope) => Ok(envelope.method().into_owned()),
            Err(fault) => Err((fault.problem, fault.at, fault.id.map(Id::raw))),
        })
        .collect();
    assert_eq!(
        found,
        [
            Ok("a".to_owned()),
            Err((Problem::NoObject, at("3,["), None)),
            Err((Problem::NoObject, at("[],"), None)),
            Ok("b".to_owned()),
            Err((Problem::Nothing, at("{\"id\":7"), Some(&b"7"[..]))),
        ]
    );
    assert_eq!(problem("[]").0, Problem::BatchEmpty);
    assert_eq!(problem("[{},").0, Problem::End);
    assert_eq!(problem("[1 2]").0, Problem::CommaOrBracket);
    let limits = ScanLimits { batch_max: 2, ..ScanLimits::default() };
    assert!(scan(b"[1,2]", &limits).is_ok());
    assert_eq!(scan(b"[1,2,3]", &limits).unwrap_err().problem, Problem::BatchLarge);
}

#[test]
fn what_is_written_is_read_back() {
    let mut out = Vec::new();
    write_result(&mut out, b"\"i\"", b"{\"a\":1}");
    assert_eq!(out, br#"{"jsonrpc":"2.0","id":"i","result":{"a":1}}"#);
    assert_eq!(out.len(), result_bytes(b"\"i\"", b"{\"a\":1}"));
    out.clear();
    write_error(&mut out, None, ErrorCode::INTERNAL_ERROR, "a\"\\\n\u{1}é/\u{7f}", Some(b"[]"));
    assert_eq!(
        String::from_utf8_lossy(&out),
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32603,\"message\":\"a\\\"\\\\\\n\\u0001é/\u{7f}\",\"data\":[]}}"
    );
    out.clear();
    write_error_response(&mut out, Some(b"1"), br#"{"code":1,"message":""}"#);
    assert_eq!(out.len(), error_bytes(Some(b"1"), br#"{"code":1,"message":""}"#));
    assert!(matches!(
        single(std::str::from_utf8(&out).unwrap()).kind(),
        Kind::Error { code: 1, .. }
    ));
    out.clear();
    write_request(&mut out, b"5", "roots/list", Some(b"{}"));
    assert_eq!(out, br#"{"jsonrpc":"2.0","id":5,"method":"roots/list","params":{}}"#);
    out.clear();
    write_notification(&mut out, "x", None);
    assert_eq!(out, br#"{"jsonrpc":"2.0","method":"x"}"#);
    out.clear();
    read(b"[").unwrap_err().write(&mut out);
    assert_eq!(out, br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"the text ends in the middle of a JSON value (at byte 1)"}}"#);
}

mod at_random {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_json::Value;

    use super::*;

    /// The grammar by serde_json: `IgnoredAny` has no recursion limit, no range of
    /// numbers, and lets lone surrogates pass, as the scanner does.
    fn is_json(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map("(name|_meta|uri|.{0,9})", inner, 0..6)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    fn accepted(text: &[u8]) -> bool {
        !matches!(read(text), Err(fault) if fault.code() == ErrorCode::PARSE_ERROR)
    }

    proptest! {
        #[test]
        fn whatever_serde_json_writes_is_accepted(value in value(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
            prop_assert!(accepted(&text.unwrap()));
        }

        #[test]
        fn a_changed_byte_is_judged_as_serde_json_judges_it(
            value in value(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]\",:\\u0e.-+ \n"[..])],
            cut in any::<bool>(),
        ) {
            let mut text = serde_json::to_vec(&value).unwrap();
            let at = at.index(text.len());
            text[at] = byte;
            if cut {
                text.truncate(at + 1);
            }
            prop_assert_eq!(accepted(&text), is_json(&text), "{}", String::from_utf8_lossy(&text));
        }

        #[test]
        fn json_soup_is_judged_as_serde_json_judges_it(
            pieces in prop::collection::vec(prop::sample::select(&[
                "{", "}", "[", "]", ",", ":", "\"a\"", "\"\\u00e9\"", "\"\\", "\"", "1", "-0", "0", "1.5", "1e9", "e", ".",
                "true", "null", "fals", " ", "\n", "é", "\u{1}", "\\ud800",
            ][..]), 0..14),
        ) {
            let text = pieces.concat();
            prop_assert_eq!(accepted(text.as_bytes()), is_json(text.as_bytes()), "{}", text);
        }

        #[test]
        fn ranges_lie_on_the_values(
            id in prop_oneof![any::<i64>().prop_map(Value::from), ".{0,20}".prop_map(Value::from)],
            method in ".{0,30}",
            name in ".{0,80}",
            arguments in value(),
            meta in prop::collection::hash_map("(progressToken|.{1,9})", "t{0,70}", 0..4),
        ) {
            let params = serde_json::json!({"name": name, "arguments": arguments, "_meta": meta});
            let message = serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
            let text = message.to_string();
            let envelope = single(&text);
            prop_assert_eq!(envelope.method(), method.as_str());
            prop_assert_eq!(envelope.name().unwrap().unwrap(), name.as_str());
            let parsed = |raw: &[u8]| serde_json::from_slice::<Value>(raw).unwrap();
            prop_assert_eq!(parsed(envelope.id().unwrap().raw()), id);
            // Written and parsed once more, since not every double survives the first time.
            let reparsed: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&parsed(envelope.params().unwrap()), &reparsed["params"]);
            prop_assert_eq!(&parsed(envelope.meta().unwrap()), &reparsed["params"]["_meta"]);
        }

        #[test]
        fn strings_survive_the_round_trip(text in any::<String>()) {
            let mut out = Vec::new();
            write_string(&mut out, &text);
            prop_assert_eq!(&serde_json::from_slice::<String>(&out).unwrap(), &text);
            prop_assert_eq!(unescape(&out[1..out.len() - 1]).unwrap(), text.as_str());
        }
    }
}

/// Each line was once searched to the end of the text, which takes minutes for this one.
#[test]
fn a_text_of_many_lines_is_looked_at_once() {
    let line = "thirty-three letters and a break..";
    let text = format!("{line}\n").repeat(4 * 1_024 * 1_024 / line.len());
    let mut out = Vec::new();
    write_string(&mut out, &text);
    assert!(serde_json::from_slice::<String>(&out).unwrap() == text);
}
