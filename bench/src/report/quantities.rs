//! Numbers as people read them: groups of three digits, and the unit that fits.
//!
//! Three significant digits are shown of anything that was measured, since load tests are
//! not more exact than that. Counts are exact.

/// `1,234,567`.
pub fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds: `842 µs`, `1.24 ms`, `31.0 s`.
pub fn duration_text(us: f64) -> String {
    // The bounds leave out what would be rounded up to the next unit.
    match us {
        us if us < 999.5 => format!("{} µs", significant(us)),
        us if us < 999_500.0 => format!("{} ms", significant(us / 1e3)),
        us => format!("{} s", significant(us / 1e6)),
    }
}

/// Bytes: `512 B`, `1.17 KiB`, `31.0 MiB`.
pub fn bytes_text(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes;
    let mut unit = 0;
    // Single bytes are whole.
    if value < 999.5 && value.fract() == 0.0 {
        return format!("{value:.0} B");
    }
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{} {}", significant(value), UNITS[unit])
}

/// Events per second: `50,000/s`, `1.25/s`.
pub fn rate_text(per_second: f64) -> String {
    format!("{}/s", amount_text(per_second))
}

/// A number that need not be whole: `50,000`, `1.25`.
pub fn amount_text(amount: f64) -> String {
    match amount {
        amount if amount >= 99.95 => count_text(amount.round() as u64),
        amount => significant(amount),
    }
}

/// A part of a whole: `12.3 %`, `0.004 %`. Nothing of nothing is `0 %`.
pub fn share_text(part: u64, whole: u64) -> String {
    match whole {
        0 => "0 %".to_owned(),
        whole => format!("{} %", significant(part as f64 / whole as f64 * 100.0)),
    }
}

/// Seconds of a span: `0.5 s`, `90 s`, `15 min`, `1 h 30 min`.
pub fn span_text(seconds: f64) -> String {
    if seconds < 99.95 {
        let digits = significant(seconds);
        let short = match digits.contains('.') {
            true => digits.trim_end_matches('0').trim_end_matches('.'),
            false => &digits,
        };
        return format!("{short} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes, rest) = (whole / 3_600, whole / 60 % 60, whole % 60);
    let mut parts = Vec::new();
    for (value, unit) in [(hours, "h"), (minutes, "min"), (rest, "s")] {
        if value > 0 {
            parts.push(format!("{value} {unit}"));
        }
    }
    parts.join(" ")
}

/// The instant as `2026-11-21 21:40:55 UTC`.
pub fn instant_text(unix_ms: u64) -> String {
    let seconds = unix_ms / 1_000;
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// One line without control characters, which could change what a terminal shows.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Words of a command as a shell takes them.
pub fn command_text(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+[]".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// Three significant digits, without an exponent.
fn significant(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        m if m == 0.0 || !m.is_finite() => "0".to_owned(),
        m if m >= 99.95 => format!("{value:.0}"),
        m if m >= 9.995 => format!("{value:.1}"),
        m if m >= 0.9995 => format!("{value:.2}"),
        m if m >= 0.000_5 => format!("{value:.3}"),
        _ => "< 0.001".to_owned(),
    }
}

/// Days since 1970 in the Gregorian calendar, counted by whole years and months.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // 146,097 days are 400 years exactly, which keeps the loop below short for any input.
    let (mut year, mut rest) = (1970 + days / 146_097 * 400, days % 146_097);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if rest < length {
            break;
        }
        rest -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_unit_that_fits() {
        for (us, expected) in [
            (0.0, "0 µs"),
            (7.0, "7.00 µs"),
            (842.0, "842 µs"),
            (999.6, "1.00 ms"),
            (1_240.0, "1.24 ms"),
            (31_000.0, "31.0 ms"),
            (999_400.0, "999 ms"),
            (999_600.0, "1.00 s"),
            (31e6, "31.0 s"),
        ] {
            assert_eq!(duration_text(us), expected);
        }
        for (bytes, expected) in [
            (0.0, "0 B"),
            (64.0, "64 B"),
            (64.5, "64.5 B"),
            (512.0, "512 B"),
            (1_000.0, "0.977 KiB"),
            (32.5e6, "31.0 MiB"),
        ] {
            assert_eq!(bytes_text(bytes), expected);
        }
        assert_eq!(rate_text(49_999.7), "50,000/s");
        assert_eq!(rate_text(1.25), "1.25/s");
        assert_eq!(count_text(12_345_678), "12,345,678");
    }

    #[test]
    fn shares_of_nothing_are_nothing() {
        assert_eq!(share_text(0, 0), "0 %");
        assert_eq!(share_text(1, 8), "12.5 %");
        assert_eq!(share_text(1, 1_000_000_000), "< 0.001 %");
    }

    #[test]
    fn spans_take_whole_units() {
        for (seconds, expected) in [
            (0.0, "0 s"),
            (0.5, "0.5 s"),
            (5.0, "5 s"),
            (30.0, "30 s"),
            (90.0, "90 s"),
            (900.0, "15 min"),
            (5_400.0, "1 h 30 min"),
            (125.0, "2 min 5 s"),
        ] {
            assert_eq!(span_text(seconds), expected);
        }
    }

    #[test]
    fn instants_follow_the_calendar() {
        for (unix_s, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_795_297_255, "2026-11-21 21:40:55 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(instant_text(unix_s * 1_000), expected);
        }
    }

    #[test]
    fn a_command_can_be_given_to_a_shell_again() {
        let words = ["run", "--fail-if", "p99>5ms", "it's", ""].map(str::to_owned);
        assert_eq!(command_text(&words), r"run --fail-if 'p99>5ms' 'it'\''s' ''");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}
