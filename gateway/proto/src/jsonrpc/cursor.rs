//! The JSON grammar, walked without building anything (RFC 8259).
//!
//! Every function takes the position it stands at and returns the one behind
//! what it skipped: positions stay in registers, which is worth a third of the
//! time. What went wrong is kept in the [`Cursor`], so that a failure is one bit.
//!
//! Invariants: positions only move forward; a value is skipped only if it is
//! valid; bytes above 0x7F are merely noticed on the way, and checked to be
//! UTF-8 once at the end, by SIMD. (Outside of strings they are a syntax error.)

use super::DEPTH_MAX;
use super::fault::{Problem, Syntax};
use super::text::unescape;

/// The text broke the grammar: see [`Cursor::flaw`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Broken;

/// A string's text between its quotes, as a range of the whole text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) escaped: bool,
}

/// Where a string ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct StringEnd {
    /// Behind the closing quote.
    pub(super) at: usize,
    pub(super) escaped: bool,
}

pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    /// The bytes passed, ORed: a high bit says that one above 0x7F was among them.
    high: u64,
    depth_max: usize,
    flaw: Syntax,
}

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// Per byte of `word`: its highest bit is set if the byte ends a run of plain
/// string bytes (quote, backslash, control). Exact for the lowest such byte;
/// borrows may mark bytes above it.
const fn marks(word: u64) -> u64 {
    const fn below(word: u64, bound: u64) -> u64 {
        word.wrapping_sub(ONES * bound) & !word
    }
    let quotes = below(word ^ (ONES * b'"' as u64), 1);
    let backslashes = below(word ^ (ONES * b'\\' as u64), 1);
    (quotes | backslashes | below(word, 0x20)) & HIGHS
}

/// What is looked at in one go.
const BLOCK_BYTES: usize = 512;

/// After this many bytes a string counts as long.
const SHORT_BYTES: usize = 32;

/// Bytes from `at` on that need no escape in a string (RFC 8259, 7). All of them are ORed
/// into `high`.
fn plain_bytes(bytes: &[u8], mut at: usize, high: &mut u64) -> usize {
    let start = at;
    let long_from = at + SHORT_BYTES;
    while let Some(word) = word(bytes, at) {
        *high |= word;
        let marks = marks(word);
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8 - start;
        }
        at += size_of::<u64>();
        if at == long_from {
            return at + plain_bytes_of_long(&bytes[at..], high) - start;
        }
    }
    let rest = bytes[at..].iter().take_while(|byte| is_plain(**byte));
    at + rest.inspect(|byte| *high |= u64::from(**byte)).count() - start
}

/// The same by SIMD, block by block: first where the text ends, then that all before it is
/// text. Whoever goes on behind a control byte has looked at no more than a block in vain.
fn plain_bytes_of_long(bytes: &[u8], high: &mut u64) -> usize {
    for (number, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        let end = memchr::memchr2(b'"', b'\\', block);
        let text = &block[..end.unwrap_or(block.len())];
        let (mut least, mut seen) = (u8::MAX, 0);
        for byte in text {
            least = least.min(*byte);
            seen |= *byte;
        }
        *high |= u64::from(seen);
        let control = || text.iter().position(|byte| *byte < 0x20);
        let end = if least < 0x20 { control() } else { end };
        if let Some(end) = end {
            return number * BLOCK_BYTES + end;
        }
    }
    bytes.len()
}

fn is_plain(byte: u8) -> bool {
    byte >= 0x20 && byte != b'"' && byte != b'\\'
}

/// How many bytes `text` begins with that need no escape in a string.
pub(super) fn plain_prefix(text: &[u8]) -> usize {
    plain_bytes(text, 0, &mut 0)
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at + size_of::<u64>())?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8], depth_max: usize) -> Result<Cursor<'a>, Syntax> {
        if u32::try_from(bytes.len()).is_err() {
            return Err(Syntax { problem: Problem::TextLarge, at: 0 });
        }
        let flaw = Syntax { problem: Problem::End, at: bytes.len() };
        Ok(Cursor { bytes, high: 0, depth_max: depth_max.min(DEPTH_MAX), flaw })
    }

    /// What broke the grammar, after something returned [`Broken`].
    pub(super) fn flaw(&self) -> Syntax {
        self.flaw
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline(always)]
    pub(crate) fn peek(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// Notes a problem at `at`, or that the text ended before.
    #[cold]
    fn broken(&mut self, problem: Problem, at: usize) -> Broken {
        let ended = at >= self.bytes.len();
        let problem = if ended { Problem::End } else { problem };
        self.flaw = Syntax { problem, at: at.min(self.bytes.len()) };
        Broken
    }

    #[inline(always)]
    pub(super) fn skip_space(&self, mut at: usize) -> usize {
        // Compact JSON has none: one comparison and out.
        while let Some(byte) = self.peek(at)
            && byte <= b' '
            && matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
        {
            at += 1;
        }
        at
    }

    /// Where the text's value begins.
    pub(crate) fn begin(&mut self) -> Result<usize, Broken> {
        // RFC 8259, 8.1: "Implementations MUST NOT add a byte order mark".
        if self.bytes.starts_with(b"\xEF\xBB\xBF") {
            return Err(self.broken(Problem::ByteOrderMark, 0));
        }
        Ok(self.skip_space(0))
    }

    /// Nothing but white space may follow, and all of the text must be UTF-8.
    pub(crate) fn finish(&mut self, at: usize) -> Result<(), Broken> {
        let at = self.skip_space(at);
        if at < self.bytes.len() {
            return Err(self.broken(Problem::Trailing, at));
        }
        if self.high & HIGHS != 0 && simdutf8::basic::from_utf8(self.bytes).is_err() {
            let valid =
                std::str::from_utf8(self.bytes).err().map_or(0, |error| error.valid_up_to());
            return Err(self.broken(Problem::Utf8, valid));
        }
        Ok(())
    }

    /// Looks a member's name up as it reads without escapes.
    #[inline(always)]
    pub(crate) fn spelled<T>(&self, name: Text, find: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let raw = self.bytes.get(name.start..name.end)?;
        if name.escaped { find(unescape(raw)?.as_bytes()) } else { find(raw) }
    }

    /// Walks the object whose brace is at `at`, at nesting level `depth`. `member`
    /// gets each name and where its value begins, and returns where that ends.
    #[inline(always)]
    pub(crate) fn members(
        &mut self,
        at: usize,
        depth: usize,
        mut member: impl FnMut(&mut Cursor<'a>, Text, usize) -> Result<usize, Broken>,
    ) -> Result<usize, Broken> {
        if depth > self.depth_max {
            return Err(self.broken(Problem::Depth, at));
        }
        let mut at = self.skip_space(at + 1);
        if self.peek(at) == Some(b'}') {
            return Ok(at + 1);
        }
        loop {
            let (name, value) = self.name(at)?;
            at = member(self, name, value)?;
            at = self.skip_space(at);
            match self.peek(at) {
                Some(b',') => at = self.skip_space(at + 1),
                Some(b'}') => return Ok(at + 1),
                _ => return Err(self.broken(Problem::CommaOrBrace, at)),
            }
        }
    }

    /// Walks the array whose bracket is at `at`, at nesting level `depth`.
    /// `element` gets where each element begins and returns where it ends.
    pub(crate) fn elements(
        &mut self,
        at: usize,
        depth: usize,
        mut element: impl FnMut(&mut Cursor<'a>, usize) -> Result<usize, Broken>,
    ) -> Result<usize, Broken> {
        if depth > self.depth_max {
            return Err(self.broken(Problem::Depth, at));
        }
        let mut at = self.skip_space(at + 1);
        if self.peek(at) == Some(b']') {
            return Ok(at + 1);
        }
        loop {
            at = element(self, at)?;
            at = self.skip_space(at);
            match self.peek(at) {
                Some(b',') => at = self.skip_space(at + 1),
                Some(b']') => return Ok(at + 1),
                _ => return Err(self.broken(Problem::CommaOrBracket, at)),
            }
        }
    }

    /// Skips the value at `at`, however deep, without recursion. `depth` is the
    /// number of containers around it.
    #[inline]
    pub(crate) fn skip_value(&mut self, at: usize, depth: usize) -> Result<usize, Broken> {
        match self.peek(at) {
            Some(b'"') => Ok(self.skip_string(at)?.at),
            Some(b'-' | b'0'..=b'9') => self.skip_number(at),
            _ => self.skip_nested(at, depth),
        }
    }

    /// [`Cursor::skip_value`] for containers, and for whatever else comes.
    fn skip_nested(&mut self, mut at: usize, depth: usize) -> Result<usize, Broken> {
        let mut open = Open { kinds: 0, count: 0, count_max: self.depth_max.saturating_sub(depth) };
        loop {
            match self.peek(at) {
                Some(b'"') => at = self.skip_string(at)?.at,
                Some(bracket @ (b'{' | b'[')) => {
                    let object = bracket == b'{';
                    if !open.push(object) {
                        return Err(self.broken(Problem::Depth, at));
                    }
                    at = self.skip_space(at + 1);
                    let closing = if object { b'}' } else { b']' };
                    if self.peek(at) == Some(closing) {
                        open.pop();
                        at += 1;
                    } else {
                        if object {
                            (_, at) = self.name(at)?;
                        }
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => at = self.skip_number(at)?,
                Some(b't') => at = self.skip_word(at, b"true")?,
                Some(b'f') => at = self.skip_word(at, b"false")?,
                Some(b'n') => at = self.skip_word(at, b"null")?,
                _ => return Err(self.broken(Problem::Value, at)),
            }
            // Behind a value: close what ends here, up to the next value.
            loop {
                if open.count == 0 {
                    return Ok(at);
                }
                at = self.skip_space(at);
                match self.peek(at) {
                    Some(b',') => {
                        at = self.skip_space(at + 1);
                        if open.in_object() {
                            (_, at) = self.name(at)?;
                        }
                        break;
                    }
                    Some(b'}') if open.in_object() => open.pop(),
                    Some(b']') if !open.in_object() => open.pop(),
                    _ if open.in_object() => return Err(self.broken(Problem::CommaOrBrace, at)),
                    _ => return Err(self.broken(Problem::CommaOrBracket, at)),
                }
                at += 1;
            }
        }
    }

    /// A member's name, and where its value begins.
    #[inline(always)]
    fn name(&mut self, at: usize) -> Result<(Text, usize), Broken> {
        if self.peek(at) != Some(b'"') {
            return Err(self.broken(Problem::Key, at));
        }
        let end = self.skip_string(at)?;
        let name = Text { start: at + 1, end: end.at - 1, escaped: end.escaped };
        let at = self.skip_space(end.at);
        if self.peek(at) != Some(b':') {
            return Err(self.broken(Problem::Colon, at));
        }
        Ok((name, self.skip_space(at + 1)))
    }

    /// The opening quote is at `at`.
    #[inline(always)]
    pub(super) fn skip_string(&mut self, at: usize) -> Result<StringEnd, Broken> {
        // Most strings are short and plain: no loop within a loop for them.
        let mut at = at + 1;
        let long_from = at + SHORT_BYTES;
        while at < long_from {
            let Some(word) = word(self.bytes, at) else { break };
            self.high |= word;
            let marks = marks(word);
            if marks != 0 {
                at += marks.trailing_zeros() as usize / 8;
                if self.peek(at) == Some(b'"') {
                    return Ok(StringEnd { at: at + 1, escaped: false });
                }
                break;
            }
            at += size_of::<u64>();
        }
        self.skip_rest_of_string(at)
    }

    /// For strings that are long, escaped, or at the end of the text.
    #[inline(never)]
    fn skip_rest_of_string(&mut self, mut at: usize) -> Result<StringEnd, Broken> {
        let mut escaped = false;
        loop {
            at += plain_bytes(self.bytes, at, &mut self.high);
            match self.peek(at) {
                Some(b'"') => return Ok(StringEnd { at: at + 1, escaped }),
                Some(b'\\') => {
                    escaped = true;
                    at = self.skip_escape(at)?;
                }
                _ => return Err(self.broken(Problem::ControlByte, at)),
            }
        }
    }

    /// RFC 8259, 7: a backslash and one of `"\/bfnrt`, or `u` and four hex digits.
    fn skip_escape(&mut self, at: usize) -> Result<usize, Broken> {
        match self.peek(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => {
                for digit in at + 2..at + 6 {
                    if !self.peek(digit).is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.broken(Problem::Escape, digit));
                    }
                }
                Ok(at + 6)
            }
            _ => Err(self.broken(Problem::Escape, at + 1)),
        }
    }

    /// RFC 8259, 6: `[ minus ] int [ frac ] [ exp ]`.
    #[inline(always)]
    fn skip_number(&mut self, mut at: usize) -> Result<usize, Broken> {
        if self.peek(at) == Some(b'-') {
            at += 1;
        }
        at = if self.peek(at) == Some(b'0') { at + 1 } else { self.skip_digits(at)? };
        match self.peek(at) {
            Some(b'.' | b'e' | b'E') => self.skip_fraction(at),
            _ => Ok(at),
        }
    }

    fn skip_fraction(&mut self, mut at: usize) -> Result<usize, Broken> {
        if self.peek(at) == Some(b'.') {
            at = self.skip_digits(at + 1)?;
        }
        if let Some(b'e' | b'E') = self.peek(at) {
            let signed = matches!(self.peek(at + 1), Some(b'+' | b'-'));
            at = self.skip_digits(at + 1 + usize::from(signed))?;
        }
        Ok(at)
    }

    /// At least one digit.
    #[inline(always)]
    fn skip_digits(&mut self, start: usize) -> Result<usize, Broken> {
        let mut at = start;
        while self.peek(at).is_some_and(|byte| byte.is_ascii_digit()) {
            at += 1;
        }
        if at == start { Err(self.broken(Problem::Number, at)) } else { Ok(at) }
    }

    #[inline]
    fn skip_word(&mut self, at: usize, word: &[u8]) -> Result<usize, Broken> {
        if self.bytes[at..].starts_with(word) {
            Ok(at + word.len())
        } else {
            Err(self.broken(Problem::Value, at))
        }
    }
}

/// The containers that are open: one bit each, the innermost lowest, 1 for an object.
struct Open {
    kinds: u128,
    count: usize,
    count_max: usize,
}

impl Open {
    /// False if that is too deep.
    #[inline(always)]
    fn push(&mut self, object: bool) -> bool {
        self.kinds = self.kinds << 1 | u128::from(object);
        self.count += 1;
        self.count <= self.count_max
    }

    #[inline(always)]
    fn pop(&mut self) {
        self.kinds >>= 1;
        self.count -= 1;
    }

    #[inline(always)]
    fn in_object(&self) -> bool {
        self.kinds & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Beside the definition, one byte at a time; short and long, at any place.
        #[test]
        fn plain_bytes_end_at_the_first_that_is_not(
            mut text in proptest::collection::vec(0x20_u8..=0xff, 0..3 * BLOCK_BYTES),
            specials in proptest::collection::vec((any::<prop::sample::Index>(), 0_u8..0x80), 0..3),
            from in any::<prop::sample::Index>(),
        ) {
            for byte in text.iter_mut().filter(|byte| !is_plain(**byte)) {
                *byte = b'.';
            }
            for (place, byte) in specials {
                if !text.is_empty() {
                    let place = place.index(text.len());
                    text[place] = byte;
                }
            }
            let from = from.index(text.len() + 1);
            let mut high = 0;
            let count = plain_bytes(&text, from, &mut high);
            let plain = text[from..].iter().take_while(|byte| is_plain(**byte));
            prop_assert_eq!(count, plain.clone().count());
            // Bytes behind the end may be in it too: then UTF-8 is checked in vain, once.
            if plain.clone().any(|byte| *byte > 0x7f) {
                prop_assert!(high & HIGHS != 0);
            }
        }
    }
}
