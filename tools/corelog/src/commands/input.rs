//! Lines from stdin or a file, read beside the executor.
//!
//! Reading a pipe or a terminal blocks for as long as nobody writes, so it has a thread of its own
//! and not a place on the executor; it hands over blocks of whole lines through a bounded channel.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::mpsc;

const BLOCK_BYTES: usize = 256 * 1024;
/// Blocks that are read ahead.
const BLOCKS_AHEAD: usize = 4;
/// No line is longer: it could not be a record.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Blocks of whole lines.
pub(crate) struct Input {
    blocks: mpsc::Receiver<io::Result<Vec<u8>>>,
    /// Where it is known.
    pub(crate) size_bytes: Option<u64>,
}

impl Input {
    /// Opens `file`, or stdin, and begins to read.
    pub(crate) fn open(file: Option<&Path>) -> Result<Self> {
        let (sender, blocks) = mpsc::channel(BLOCKS_AHEAD);
        let (source, size_bytes, name): (Box<dyn Read + Send>, _, _) = match file {
            Some(path) => {
                let failed = || format!("cannot read {}", path.display());
                let file = File::open(path).with_context(failed)?;
                let metadata = file.metadata().with_context(failed)?;
                let size = metadata.is_file().then_some(metadata.len());
                (Box::new(file), size, path.to_path_buf())
            }
            None => (Box::new(io::stdin()), None, PathBuf::from("stdin")),
        };
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || read_blocks(source, &sender))
            .with_context(|| format!("cannot start the thread that reads {}", name.display()))?;
        Ok(Self { blocks, size_bytes })
    }

    /// The next block; `None` at the end. Only the last may end without a line end.
    pub(crate) async fn next(&mut self) -> Option<io::Result<Vec<u8>>> {
        self.blocks.recv().await
    }
}

fn read_blocks(mut source: impl Read, sender: &mpsc::Sender<io::Result<Vec<u8>>>) {
    let mut rest = Vec::new();
    loop {
        let outcome = read_block(&mut source, &mut rest);
        let last = !matches!(outcome, Ok(Some(_)));
        let block = match outcome {
            Ok(Some(block)) => Ok(block),
            Ok(None) if rest.is_empty() => return,
            Ok(None) => Ok(std::mem::take(&mut rest)),
            Err(error) => Err(error),
        };
        // An error means that nobody wants more.
        if futures_lite::future::block_on(sender.send(block)).is_err() || last {
            return;
        }
    }
}

/// At least one whole line; `None` at the end, with what follows the last line end in `rest`. What a
/// terminal or a pipe has at the moment is handed over without waiting for a full block.
fn read_block(source: &mut impl Read, rest: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        let filled = rest.len();
        rest.resize(filled + BLOCK_BYTES, 0);
        let count = match source.read(&mut rest[filled..]) {
            Ok(count) => count,
            Err(error) => {
                rest.truncate(filled);
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
        };
        rest.truncate(filled + count);
        if count == 0 {
            return Ok(None);
        }
        if let Some(end) = rest[filled..].iter().rposition(|byte| *byte == b'\n') {
            let next = rest.split_off(filled + end + 1);
            return Ok(Some(std::mem::replace(rest, next)));
        }
        if rest.len() > LINE_BYTES_MAX {
            let reason = format!("a line is longer than {LINE_BYTES_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
    }
}

/// The lines of a block, without their ends.
pub(crate) fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let block = block.strip_suffix(b"\n").unwrap_or(block);
    block.split(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time, to cut lines everywhere.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    fn all_lines(source: impl Read + Send + 'static) -> Vec<Vec<u8>> {
        let (sender, mut blocks) = mpsc::channel(BLOCKS_AHEAD);
        let reader = thread::spawn(move || read_blocks(source, &sender));
        let mut found = Vec::new();
        while let Some(block) = futures_lite::future::block_on(blocks.recv()) {
            found.extend(lines(&block.unwrap()).map(<[u8]>::to_vec));
        }
        reader.join().unwrap();
        found
    }

    #[test]
    fn every_line_comes_once_also_empty_ones_and_a_last_one_without_an_end() {
        let text = b"one\n\nthree\r\n\xff\nlast";
        let expected: Vec<&[u8]> = vec![b"one", b"", b"three\r", b"\xff", b"last"];
        assert_eq!(all_lines(Slowly(text)), expected);
        assert_eq!(all_lines(text.as_slice()), expected);
        assert_eq!(all_lines(b"\n".as_slice()), [b""]);
        assert!(all_lines(b"".as_slice()).is_empty());
    }
}
