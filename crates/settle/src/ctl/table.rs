//! How answers are shown on a terminal.

use serde_json::Value;

pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(super) fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// As an operator reads it: `41 ms`, `1.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`.
pub(super) fn duration(ms: &Value) -> String {
    let Some(ms) = ms.as_u64() else {
        return "–".to_owned();
    };
    let (s, min, h) = (ms / 1_000, ms / 60_000, ms / 3_600_000);
    match s {
        0 => format!("{ms} ms"),
        1..10 => format!("{s}.{} s", ms % 1_000 / 100),
        10..120 => format!("{s} s"),
        120..7_200 => in_two(min, "min", s % 60, "s"),
        7_200..172_800 => in_two(h, "h", min % 60, "min"),
        _ => in_two(h / 24, "d", h % 24, "h"),
    }
}

fn in_two(large: u64, of: &str, small: u64, of_small: &str) -> String {
    match small {
        0 => format!("{large} {of}"),
        small => format!("{large} {of} {small} {of_small}"),
    }
}

/// A wall time in milliseconds since 1970, as `2026-11-23 08:40:02 UTC`.
pub(super) fn utc(ms: &Value) -> String {
    let Some(ms) = ms.as_u64() else {
        return "–".to_owned();
    };
    let (days, second) = ((ms / 86_400_000) as i64, ms / 1_000 % 86_400);
    let (year, month, day) = date(days);
    let (h, min, s) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {h:02}:{min:02}:{s:02} UTC")
}

/// The Gregorian date so many days after 1970-01-01, from Howard Hinnant's `civil_from_days`: years begin in March and
/// are counted in eras of 400.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// The beginning of a long text.
pub(super) fn short(value: &Value, chars_max: usize) -> String {
    let text = text(value);
    match text.char_indices().nth(chars_max) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

pub(super) fn print_table<const N: usize>(rows: &[[String; N]]) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let line: String = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("  {cell:<width$}"))
            .collect();
        println!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_shown_as_people_read_them() {
        let shown = [41, 1_400, 12_999, 185_000, 7_800_000, 356_400_000].map(|ms| duration(&json!(ms)));
        assert_eq!(shown, ["41 ms", "1.4 s", "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h"]);
        for (ms, shown) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400_000_u64, "2000-02-29 00:00:00 UTC"),
            (1_709_251_199_999, "2024-02-29 23:59:59 UTC"),
            (4_102_444_800_000, "2100-01-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(&json!(ms)), shown);
        }
        assert_eq!(
            (duration(&json!(null)), short(&json!("aéb"), 2)),
            ("–".to_owned(), "aé…".to_owned())
        );
    }
}
