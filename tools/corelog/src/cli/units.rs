//! Times and sizes as they are typed: a number in the base unit, or one with its own.

use std::time::Duration;

use corelog_bench::plan::parse_bytes;

/// A number of seconds, or a time with units: `1.5`, `500ms`, `8s`, `2m`, `1h30m`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string()),
        Err(_) => humantime::parse_duration(text)
            .map_err(|_| "neither a number of seconds nor a time such as 500ms, 8s, 2m or 1h".to_owned()),
    }
}

/// As [`duration`], in seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    duration(text).map(|it| it.as_secs_f64())
}

/// A number of bytes, or a size with its unit: `4096`, `64KiB`, `1MiB`, `1.5MB`.
pub(super) fn bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    T::try_from(bytes).map_err(|_| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_a_number_of_seconds_or_has_its_units() {
        for (text, ms) in [
            ("8", 8_000),
            ("0", 0),
            ("0.25", 250),
            ("1e1", 10_000),
            ("500ms", 500),
            ("8s", 8_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "s", "-1", "-1s", "8 apples", "inf", "NaN", "1e300", "99999999999999999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(duration("soon").unwrap_err().contains("500ms, 8s, 2m or 1h"));
    }

    #[test]
    fn a_size_that_its_flag_cannot_hold_is_refused() {
        assert_eq!(bytes::<i32>("1MiB"), Ok(1 << 20));
        assert_eq!(bytes::<i32>("2GiB"), Err("too large".to_owned()));
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_and_a_size_or_an_error(text in "[0-9.eE+-]{0,25} ?[a-zA-Zµ]{0,5}[0-9]{0,3}|.{0,20}") {
            let _ = (duration(&text), bytes::<usize>(&text));
        }
    }
}
