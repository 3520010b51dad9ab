//! What comes after the question mark. Pure.

use std::collections::BTreeMap;

use super::ConsoleError;

/// A request's parameters by name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Parameters in the form of an HTML form.
    ///
    /// # Errors
    /// When an escape is wrong, the text is not UTF-8, or a parameter comes twice.
    pub(super) fn parse(text: &str) -> Result<Self, ConsoleError> {
        let bad = |part: &str| ConsoleError::Bad(format!("'{part}' is not a parameter"));
        let mut parameters = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (name, value) = (decode(name), decode(value));
            let (Some(name), Some(value)) = (name, value) else { return Err(bad(part)) };
            if parameters.insert(name, value).is_some() {
                return Err(ConsoleError::Bad(format!("'{part}' comes twice")));
            }
        }
        Ok(Self(parameters))
    }

    /// A parameter that may be left out.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A parameter that has to be there.
    pub(super) fn required(&self, name: &str) -> Result<&str, ConsoleError> {
        self.get(name).ok_or_else(|| ConsoleError::Bad(format!("the parameter {name} is missing")))
    }

    /// A number, or what it is when it is left out.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str, default: T) -> Result<T, ConsoleError> {
        let Some(text) = self.get(name) else { return Ok(default) };
        text.parse().map_err(|_| ConsoleError::Bad(format!("{name}={text} is not a number that fits")))
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                high << 4 | low
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parameters_are_as_a_browser_writes_them() {
        let query = Query::parse("name=gr%C3%BC%c3%9fe+%26+%2B&empty=&bare").unwrap();
        assert_eq!(query.get("name"), Some("grüße & +"));
        assert_eq!((query.get("empty"), query.get("bare"), query.get("no")), (Some(""), Some(""), None));
        assert_eq!(Query::parse("n=-7").unwrap().number("n", 0_i64).unwrap(), -7);
        assert_eq!(Query::parse("").unwrap().number("n", 5).unwrap(), 5);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=1&a=2"] {
            assert!(Query::parse(bad).is_err(), "{bad}");
        }
        assert!(Query::parse("n=x").unwrap().number("n", 0_u8).is_err());
        assert!(Query::parse("n=256").unwrap().number("n", 0_u8).is_err());
        assert!(Query::parse("").unwrap().required("topic").is_err());
    }

    proptest! {
        #[test]
        fn any_text_comes_through(text: String) {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let query = Query::parse(&format!("t={escaped}")).unwrap();
            prop_assert_eq!(query.get("t"), Some(text.as_str()));
        }

        #[test]
        fn any_query_is_read_or_refused(text: String) {
            let _ = Query::parse(&text);
        }
    }
}
