//! One GET, as much of HTTP as a node's own endpoint speaks: a status, a length, a body.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a node takes at the most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// No node has so much to say.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The body of `path` at host and port.
pub(super) fn get(address: &str, path: &str) -> Result<String> {
    let what = || format!("cannot read http://{address}{path}");
    let answer = ask(address, path).with_context(what)?;
    body(&answer).with_context(what)
}

fn ask(address: &str, path: &str) -> Result<Vec<u8>> {
    let resolved = address.to_socket_addrs().context("write host:port, for example 127.0.0.1:9644")?;
    let mut failure = anyhow!("the name has no address");
    for candidate in resolved {
        match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                // Not as the error that it is: a broken pipe of ours is taken for that of our output, whose
                // reader has had enough.
                let lost = |error: io::Error| anyhow!("{error}");
                let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
                stream.write_all(request.as_bytes()).map_err(lost)?;
                let mut answer = Vec::new();
                stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(lost)?;
                return Ok(answer);
            }
            Err(error) => failure = error.into(),
        }
    }
    Err(failure)
}

fn body(answer: &[u8]) -> Result<String> {
    let answer = std::str::from_utf8(answer).context("the answer is no text")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("that is not HTTP")?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).context("that is not HTTP")?;
    if !status.starts_with("200") {
        bail!("the answer is {status}: {}", body.trim());
    }
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let length = length.context("the answer does not say its length")?;
    ensure!(length == body.len(), "the answer has {} of {length} bytes", body.len());
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_answer_has_its_body() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nContent-Length: 3\r\n\r\na\nb";
        assert_eq!(body(answer).unwrap(), "a\nb");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_body_or_an_error(
            status in "(HTTP/1.1 )?(200|503|[0-9]{0,4})( [A-Z]{0,4})?",
            headers in prop::collection::vec("((?i:content-length)|[a-z-]{0,6}):? ?-?[0-9]{0,22}", 0..4),
            text in ".{0,20}",
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let head = format!("{status}\r\n{}\r\n\r\n", headers.join("\r\n"));
            for answer in [[head.as_bytes(), text.as_bytes()].concat(), [head.as_bytes(), &bytes].concat(), bytes] {
                if let Ok(body) = body(&answer) {
                    prop_assert!(answer.ends_with(body.as_bytes()));
                }
            }
        }
    }

    #[test]
    fn other_answers_say_what_is_wrong() {
        let error = |answer: &str| format!("{:#}", body(answer.as_bytes()).unwrap_err());
        let starting =
            error("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 21\r\n\r\nthe node is starting\n");
        assert!(starting.contains("503") && starting.contains("the node is starting"), "{starting}");
        assert!(error("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc").contains("3 of 5 bytes"));
        assert!(error("SSH-2.0-OpenSSH\r\n").contains("not HTTP"));
    }
}
