//! Dates and times of the proleptic Gregorian calendar as MySQL writes them, and as the milliseconds that Java keeps.

/// Days since 1970-01-01. (H. Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.)
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Its reverse.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Microseconds since 1970-01-01 00:00:00 on the same clock. None when it is no date with a four-digit year from 1 on.
pub fn micros(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(' ').unwrap_or((text, "00:00:00"));
    let mut parts = date.splitn(3, '-');
    let mut number = |digits: usize| {
        let part = parts.next()?;
        (part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit())).then(|| part.parse::<i64>().ok())?
    };
    let (year, month, day) = (number(4)?, number(2)?, number(2)?);
    let since = days(year, month, day);
    // A day that does not exist comes back as another.
    if year < 1 || !(1..=12).contains(&month) || civil(since) != (year, month, day) {
        return None;
    }
    Some(since * 86_400_000_000 + clock_micros(time)?)
}

/// Microseconds of a time of day.
fn clock_micros(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut parts = clock.splitn(3, ':');
    let mut number = |below: i64| {
        let part = parts.next()?;
        let is_plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| part.parse::<i64>().ok())?.filter(|n| *n < below)
    };
    let seconds = (number(24)? * 60 + number(60)?) * 60 + number(60)?;
    if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").parse().ok()?;
    Some(seconds * 1_000_000 + micros)
}

/// As MySQL writes it, with as much of a fraction as there is. None outside of the years 1 to 9999.
pub fn date_time(micros: i64) -> Option<String> {
    let day_micros = micros.rem_euclid(86_400_000_000);
    let date = date(micros)?;
    let (seconds, fraction) = (day_micros / 1_000_000, day_micros % 1_000_000);
    let clock = format!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60);
    Some(match fraction {
        0 => format!("{date} {clock}"),
        _ => format!("{date} {clock}.{}", format!("{fraction:06}").trim_end_matches('0')),
    })
}

/// The date alone.
pub fn date(micros: i64) -> Option<String> {
    let (year, month, day) = civil(micros.div_euclid(86_400_000_000));
    (1..=9_999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_days_are_counted_right() {
        assert_eq!(micros("1970-01-01"), Some(0));
        assert_eq!(micros("2024-02-29 12:34:56.789"), Some(1_709_210_096_789_000));
        assert_eq!(
            date_time(1_709_210_096_789_000).as_deref(),
            Some("2024-02-29 12:34:56.789")
        );
        assert_eq!(date_time(-1).as_deref(), Some("1969-12-31 23:59:59.999999"));
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "0000-00-00",
            "2023-02-29",
            "2024-13-01",
            "24-01-01",
            "2024-01-01 24:00:00",
            "2024-01-01 1:2:3",
            "",
        ] {
            assert_eq!(micros(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_comes_back_from_its_text(moment in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let text = date_time(moment).expect("within the years 1 to 9999");
            prop_assert_eq!(micros(&text), Some(moment));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = micros(&text);
        }
    }
}
