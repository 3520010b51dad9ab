//! The first record of a broker that is just starting: a raw socket, so that nothing but the broker
//! is measured.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const TOPIC: &str = "first";
const CONNECT_INTERVAL: Duration = Duration::from_micros(200);
const ASK_AGAIN_INTERVAL: Duration = Duration::from_millis(1);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Larger answers than this are none: 10,000 partitions take less.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// What a broker says while a topic is being created.
const NOT_THERE_YET: [i16; 3] = [3, 5, 6];
const METADATA: i16 = 3;
const PRODUCE: i16 = 0;

/// Produces one record, acknowledged by all replicas, as soon as the broker takes it. `check` says
/// whether it still runs.
pub(crate) fn acknowledged(
    address: SocketAddr,
    limit: Duration,
    mut check: impl FnMut() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let record = batch(b"first");
    loop {
        match attempt(address, &record) {
            Ok(0) => return Ok(()),
            Ok(code) if NOT_THERE_YET.contains(&code) => thread::sleep(ASK_AGAIN_INTERVAL),
            Ok(code) => bail!("the first record was refused with error {code}"),
            Err(error) if is_starting(&error) => {
                check()?;
                thread::sleep(CONNECT_INTERVAL);
            }
            Err(error) => return Err(error.context("the first record")),
        }
        ensure!(Instant::now() < deadline, "no record was acknowledged within {} s", limit.as_secs());
    }
}

/// Produces so many batches of one record of 1 MB each.
pub(crate) fn fill(address: SocketAddr, batches: usize) -> Result<()> {
    let mut stream = connect(address)?;
    let records = batch(&[b'x'; 1_000_000]);
    for _ in 0..batches {
        let code = produce(&mut stream, &records)?;
        ensure!(code == 0, "a record was refused with error {code}");
    }
    Ok(())
}

/// Nobody listens yet, or a connection that was made too early was closed again.
fn is_starting(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::UnexpectedEof
                | ErrorKind::BrokenPipe
        )
    })
}

/// The produce's error code, after asking for the topic, which creates it.
fn attempt(address: SocketAddr, record: &[u8]) -> Result<i16> {
    let mut stream = connect(address)?;
    let mut body = 1_i32.to_be_bytes().to_vec();
    put_name(&mut body, TOPIC);
    body.push(1);
    exchange(&mut stream, METADATA, 4, &body)?;
    produce(&mut stream, record)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(stream)
}

/// Produce, version 3, to partition 0.
fn produce(stream: &mut TcpStream, records: &[u8]) -> Result<i16> {
    let mut body = Vec::with_capacity(records.len() + 64);
    body.extend((-1_i16).to_be_bytes());
    body.extend((-1_i16).to_be_bytes());
    body.extend(30_000_i32.to_be_bytes());
    body.extend(1_i32.to_be_bytes());
    put_name(&mut body, TOPIC);
    body.extend(1_i32.to_be_bytes());
    body.extend(0_i32.to_be_bytes());
    body.extend(length(records).to_be_bytes());
    body.extend(records);
    let answer = exchange(stream, PRODUCE, 3, &body)?;
    // Correlation id, number of topics, name, number of partitions, partition.
    let at = 4 + 4 + 2 + TOPIC.len() + 4 + 4;
    let code = answer.get(at..at + 2).context("the answer to a produce is too short")?;
    Ok(i16::from_be_bytes([code[0], code[1]]))
}

fn exchange(stream: &mut TcpStream, key: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(body.len() + 14);
    frame.extend((length(body) + 10).to_be_bytes());
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    frame.extend((-1_i16).to_be_bytes());
    frame.extend(body);
    stream.write_all(&frame)?;
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size))?;
    ensure!(size <= ANSWER_MAX_BYTES, "an answer of {size} bytes");
    let mut answer = vec![0; size];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn put_name(body: &mut Vec<u8>, name: &str) {
    body.extend(i16::try_from(name.len()).expect("our own names are short").to_be_bytes());
    body.extend(name.as_bytes());
}

fn length(bytes: &[u8]) -> i32 {
    i32::try_from(bytes.len()).expect("what we send is below 2 GB")
}

/// A record batch, version 2, with one record that has no key.
fn batch(value: &[u8]) -> Vec<u8> {
    let mut body = vec![0];
    put_varint(&mut body, 0);
    put_varint(&mut body, 0);
    put_varint(&mut body, -1);
    put_varint(&mut body, i64::from(length(value)));
    body.extend(value);
    put_varint(&mut body, 0);
    let mut checked = Vec::with_capacity(body.len() + 64);
    checked.extend(0_i16.to_be_bytes());
    checked.extend(0_i32.to_be_bytes());
    // Create times of 1970 would be old enough to be deleted at once by retention.
    let now_ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
    for _ in 0..2 {
        checked.extend(i64::try_from(now_ms).unwrap_or_default().to_be_bytes());
    }
    checked.extend((-1_i64).to_be_bytes());
    checked.extend((-1_i16).to_be_bytes());
    checked.extend((-1_i32).to_be_bytes());
    checked.extend(1_i32.to_be_bytes());
    put_varint(&mut checked, i64::from(length(&body)));
    checked.extend(body);
    let mut batch = 0_i64.to_be_bytes().to_vec();
    // Leader epoch, magic and checksum are counted.
    batch.extend((length(&checked) + 9).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c::crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// Zigzag, seven bits a byte.
fn put_varint(to: &mut Vec<u8>, number: i64) {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    while rest > 0x7f {
        to.push(u8::try_from(rest & 0x7f).expect("seven bits") | 0x80);
        rest >>= 7;
    }
    to.push(u8::try_from(rest).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_the_form_of_version_2() {
        let batch = batch(b"first");
        assert_eq!(batch[16], 2);
        assert_eq!(batch[8..12], i32::try_from(batch.len() - 12).unwrap_or_default().to_be_bytes());
        assert_eq!(batch[17..21], crc32c::crc32c(&batch[21..]).to_be_bytes());
        // Length 11 of: attributes, timestamp, offset, no key (-1), value of 5 bytes, no headers.
        assert_eq!(batch[61..], [22, 0, 0, 0, 1, 10, b'f', b'i', b'r', b's', b't', 0]);
    }

    #[test]
    fn numbers_take_as_many_bytes_as_they_need() {
        let varint = |number| {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, number);
            bytes
        };
        assert_eq!(varint(-1), [1]);
        assert_eq!(varint(64), [0x80, 0x01]);
        assert_eq!(varint(1_000_000), [0x80, 0x89, 0x7a]);
    }
}
