//! Writing messages from parts that are JSON already.

use super::cursor::plain_prefix;
use super::fault::ErrorCode;

const ID: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":";
const RESULT: &[u8] = b",\"result\":";
const ERROR: &[u8] = b",\"error\":";

/// `{"jsonrpc":"2.0","id":…,"result":…}`. Both parts are raw JSON.
pub fn write_result(out: &mut Vec<u8>, id: &[u8], result: &[u8]) {
    write_outcome(out, id, RESULT, result);
}

/// How many bytes [`write_result`] appends.
pub const fn result_bytes(id: &[u8], result: &[u8]) -> usize {
    ID.len() + id.len() + RESULT.len() + result.len() + 1
}

/// `{"jsonrpc":"2.0","id":…,"error":…}` around the raw JSON of an error object; no id stands for `null`.
pub fn write_error_response(out: &mut Vec<u8>, id: Option<&[u8]>, error: &[u8]) {
    write_outcome(out, id.unwrap_or(b"null"), ERROR, error);
}

/// How many bytes [`write_error_response`] appends.
pub const fn error_bytes(id: Option<&[u8]>, error: &[u8]) -> usize {
    let id_bytes = match id {
        Some(id) => id.len(),
        None => 4,
    };
    ID.len() + id_bytes + ERROR.len() + error.len() + 1
}

fn write_outcome(out: &mut Vec<u8>, id: &[u8], name: &[u8], value: &[u8]) {
    out.reserve(ID.len() + id.len() + name.len() + value.len() + 1);
    out.extend_from_slice(ID);
    out.extend_from_slice(id);
    out.extend_from_slice(name);
    out.extend_from_slice(value);
    out.push(b'}');
}

/// An error response; `message` is text, `id` and `data` are raw JSON. No id stands for `null`.
pub fn write_error(
    out: &mut Vec<u8>,
    id: Option<&[u8]>,
    code: ErrorCode,
    message: &str,
    data: Option<&[u8]>,
) {
    out.extend_from_slice(ID);
    out.extend_from_slice(id.unwrap_or(b"null"));
    out.extend_from_slice(ERROR);
    write_error_object(out, code, message, data);
    out.push(b'}');
}

/// `{"code":…,"message":…,"data":…}`; `data` is raw JSON.
pub fn write_error_object(out: &mut Vec<u8>, code: ErrorCode, message: &str, data: Option<&[u8]>) {
    out.extend_from_slice(b"{\"code\":");
    out.extend_from_slice(itoa::Buffer::new().format(code.0).as_bytes());
    out.extend_from_slice(b",\"message\":");
    write_string(out, message);
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        out.extend_from_slice(data);
    }
    out.push(b'}');
}

/// A request; `method` is text, `id` and `params` are raw JSON.
pub fn write_request(out: &mut Vec<u8>, id: &[u8], method: &str, params: Option<&[u8]>) {
    out.extend_from_slice(ID);
    out.extend_from_slice(id);
    out.push(b',');
    write_call(out, method, params);
}

/// A notification; `method` is text, `params` is raw JSON.
pub fn write_notification(out: &mut Vec<u8>, method: &str, params: Option<&[u8]>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
    write_call(out, method, params);
}

fn write_call(out: &mut Vec<u8>, method: &str, params: Option<&[u8]>) {
    out.extend_from_slice(b"\"method\":");
    write_string(out, method);
    if let Some(params) = params {
        out.extend_from_slice(b",\"params\":");
        out.extend_from_slice(params);
    }
    out.push(b'}');
}

/// A JSON string with its quotes. Escapes what RFC 8259, 7 asks for, and nothing else.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, behind) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((special, behind)) = behind.split_first() else { break };
        write_escape(out, *special);
        rest = behind;
    }
    out.push(b'"');
}

fn write_escape(out: &mut Vec<u8>, byte: u8) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
            out.push(b"0123456789abcdef"[usize::from(byte & 0xf)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', letter]);
}
