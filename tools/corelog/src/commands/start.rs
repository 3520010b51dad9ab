//! `--from`: where consuming begins.

use std::str::FromStr;

use chrono::{DateTime, NaiveDate, NaiveDateTime};

/// Where consuming begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Beginning,
    End,
    Offset(i64),
    /// In ms since 1970.
    Timestamp(i64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "beginning" | "earliest" => return Ok(Self::Beginning),
            "end" | "latest" => return Ok(Self::End),
            _ => {}
        }
        if let Some(timestamp_ms) = text.strip_prefix('@') {
            return match timestamp_ms.parse() {
                Ok(timestamp_ms) if timestamp_ms >= 0 => Ok(Self::Timestamp(timestamp_ms)),
                _ => Err("after @ comes a time in ms since 1970".to_owned()),
            };
        }
        if let Ok(offset) = text.parse::<i64>() {
            return match offset {
                0.. => Ok(Self::Offset(offset)),
                _ => Err("an offset is not negative".to_owned()),
            };
        }
        let time = DateTime::parse_from_rfc3339(text)
            .map(|time| time.timestamp_millis())
            // Without a zone it is UTC, and a date alone is its first moment.
            .or_else(|_| text.parse().map(|time: NaiveDateTime| time.and_utc().timestamp_millis()))
            .or_else(|_| {
                let date: NaiveDate = text.parse()?;
                let midnight = date.and_time(chrono::NaiveTime::MIN);
                Ok::<_, chrono::ParseError>(midnight.and_utc().timestamp_millis())
            });
        match time {
            Ok(timestamp_ms) if timestamp_ms >= 0 => Ok(Self::Timestamp(timestamp_ms)),
            Ok(_) => Err("that is before 1970".to_owned()),
            Err(_) => {
                Err("not beginning, end, an offset, a time such as 2026-01-31T12:00:00Z, or ms since 1970 \
                 such as @1767225600000"
                    .to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn any_text_is_a_place_or_an_error(
            text in "@?-?[0-9]{0,21}|-?[0-9]{1,6}-[0-9]{0,3}-[0-9]{0,3}(T[0-9:.]{0,20}(Z|[+-][0-9:]{0,5})?)?|.{0,30}",
        ) {
            if let Ok(From::Offset(at) | From::Timestamp(at)) = text.parse() {
                proptest::prop_assert!(at >= 0);
            }
        }
    }

    #[test]
    fn all_forms_are_understood() {
        let cases = [
            ("beginning", From::Beginning),
            ("end", From::End),
            ("0", From::Offset(0)),
            ("1500", From::Offset(1500)),
            ("@1767225600000", From::Timestamp(1_767_225_600_000)),
            ("2026-01-01T00:00:00Z", From::Timestamp(1_767_225_600_000)),
            ("2026-01-01T01:00:00+01:00", From::Timestamp(1_767_225_600_000)),
            ("2026-01-01T00:00:00.250", From::Timestamp(1_767_225_600_250)),
            ("2026-01-01", From::Timestamp(1_767_225_600_000)),
        ];
        for (text, from) in cases {
            assert_eq!(text.parse(), Ok(from), "{text}");
        }
        for text in ["", "-1", "@", "@-5", "yesterday", "1969-12-31"] {
            assert!(text.parse::<From>().is_err(), "{text}");
        }
    }
}
