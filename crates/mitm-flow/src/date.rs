//! Dates in headers (RFC 9110 §5.6.7) and cookies (RFC 6265 §5.1.1), as Unix seconds.

use std::time::{Duration, UNIX_EPOCH};

/// The last second of the year 9999: later dates have no form.
const LAST: f64 = 253_402_300_799.0;

/// Reads a date in any of the forms in use: RFC 1123, RFC 850, asctime, Netscape's with dashes, with GMT or a
/// numeric zone. Tokens are recognised by their looks, so their order hardly matters.
pub fn parse(text: &str) -> Option<i64> {
    let text = text.trim();
    // No date is longer, and the token loop is not meant for novels.
    if text.len() > 100 {
        return None;
    }
    let (text, zone) = split_zone(text);
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(|c: char| !c.is_ascii_alphanumeric() && c != ':') {
        if token.is_empty() {
            continue;
        }
        if time.is_none() && token.contains(':') {
            time = Some(parse_time(token)?);
        } else if month.is_none() && token.starts_with(|c: char| c.is_ascii_alphabetic()) {
            month = month_number(token);
        } else if let Ok(number) = token.parse::<i64>() {
            if day.is_none() && token.len() <= 2 {
                day = Some(number).filter(|day| (1..=31).contains(day));
            } else if year.is_none() && token.len() <= 4 {
                year = Some(match number {
                    0..=68 if token.len() <= 2 => number + 2000,
                    69..=99 if token.len() <= 2 => number + 1900,
                    _ => number,
                });
            }
        }
    }
    Some(days_since_epoch(year?, month?, day?) * 86_400 + time? - zone)
}

/// Splits a trailing `+hhmm` or `-hhmm` off, in seconds.
fn split_zone(text: &str) -> (&str, i64) {
    let split = || {
        let (rest, zone) = text.rsplit_once(' ')?;
        let sign = match zone.as_bytes().first()? {
            b'+' => 1,
            b'-' => -1,
            _ => return None,
        };
        let digits = zone.get(1..).filter(|digits| digits.len() == 4)?;
        let number: i64 = digits.parse::<u16>().ok()?.into();
        Some((rest, sign * (number / 100 * 3600 + number % 100 * 60)))
    };
    split().unwrap_or((text, 0))
}

fn parse_time(token: &str) -> Option<i64> {
    let mut parts = token.split(':').map(|part| part.parse::<u8>().ok().filter(|n| *n <= 60));
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = parts.next().unwrap_or(Some(0))?;
    (hours < 24 && minutes < 60 && parts.next().is_none())
        .then(|| i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds))
}

fn month_number(token: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let start = token.get(..3)?;
    (1..).zip(MONTHS).find(|(_, month)| month.eq_ignore_ascii_case(start)).map(|(number, _)| number)
}

/// Counts days of the proleptic Gregorian calendar from 1970-01-01. Years begin in March here, so that the leap
/// day is their last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let days_before_month = (153 * month + 2) / 5;
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 719 469 days lie between the first of March of year 0 and that of the epoch, counted from day 1.
    year * 365 + leap_days + days_before_month + day - 719_469
}

/// Writes a date as RFC 9110 wants it. What is before 1970 or after 9999 becomes the nearest that is not.
pub fn format(seconds: f64) -> String {
    let seconds = if seconds.is_nan() { 0.0 } else { seconds.clamp(0.0, LAST) };
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs_f64(seconds.floor()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_in_use_are_read() {
        for (text, seconds) in [
            ("Wed, 09 Jun 2021 10:18:14 GMT", Some(1_623_233_894)),
            ("Wednesday, 09-Jun-21 10:18:14 GMT", Some(1_623_233_894)),
            ("Wed Jun  9 10:18:14 2021", Some(1_623_233_894)),
            ("Thu, 01-Jan-1970 00:00:01 GMT", Some(1)),
            ("Wed, 09 Jun 2021 10:18:14 +0200", Some(1_623_226_694)),
            ("9 Jun 21 10:18", Some(1_623_233_880)),
            ("29 Feb 2024 00:00:00", Some(1_709_164_800)),
            ("0", None),
            ("-1", None),
            ("", None),
            ("Wed, 09 Jun 2021 25:18:14 GMT", None),
            ("Wed, 09 Foo 2021 10:18:14 GMT", None),
        ] {
            assert_eq!(parse(text), seconds, "{text}");
        }
    }

    #[test]
    fn dates_that_have_no_form_become_the_nearest() {
        assert_eq!(format(-5.0), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(format(f64::NAN), format(0.0));
        assert_eq!(format(f64::INFINITY), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    proptest! {
        #[test]
        fn parsing_undoes_formatting(seconds in 0..253_402_300_799_i64) {
            prop_assert_eq!(parse(&format(seconds as f64)), Some(seconds));
        }

        #[test]
        fn junk_does_no_harm(text: String, digits in "[0-9:+ -]{0,30} Jan") {
            parse(&text);
            parse(&digits);
        }
    }
}
