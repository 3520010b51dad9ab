//! `corelog produce`

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use corelog_net::client::cluster::AutoCreate;
use corelog_net::client::producer::{Acks, BatchReport, OutRecord, TopicProducer};
use corelog_net::client::{Client, ClientError, Producer, ProducerOptions};
use corelog_runtime::shards::{StopSignal, stop_signal};
use corelog_runtime::time::{self, Instant};
use futures_lite::future;
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::input::{Input, lines};
use crate::cli::{AcksArgument, Produce};
use crate::client_run::{OnSignal, with_client};
use crate::out::{Format, grouped, print_json};

pub(crate) fn run(arguments: Produce, format: Format) -> Result<ExitCode> {
    with_client(arguments.connect.clone(), OnSignal::Handles, move |client| {
        produce(client, arguments.clone(), format)
    })
}

/// What became of the records, as the batches' outcomes come in.
#[derive(Default)]
struct Tally {
    delivered: Cell<u64>,
    delivered_bytes: Cell<u64>,
    failed: Cell<u64>,
    first_error: RefCell<Option<ClientError>>,
}

impl Tally {
    fn count(&self, report: &BatchReport<'_>) {
        let records = u64::from(report.records.unsigned_abs());
        match report.outcome {
            Ok(_) => {
                self.delivered.set(self.delivered.get() + records);
                let bytes = u64::try_from(report.bytes).unwrap_or(u64::MAX);
                self.delivered_bytes.set(self.delivered_bytes.get() + bytes);
            }
            Err(error) => {
                self.failed.set(self.failed.get() + records);
                self.first_error.borrow_mut().get_or_insert_with(|| error.clone());
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.failed.get() > 0
    }
}

/// After Ctrl-C, what was read is still sent, but not for longer than this.
const STOP_GRACE: Duration = Duration::from_secs(3);

async fn produce(client: Client, arguments: Produce, format: Format) -> Result<ExitCode> {
    let mut input = Input::open(arguments.file.as_deref())?;
    let tally = Rc::new(Tally::default());
    let told = Rc::clone(&tally);
    let options = ProducerOptions {
        acks: match arguments.acks {
            AcksArgument::None => Acks::None,
            AcksArgument::Leader => Acks::Leader,
            AcksArgument::All => Acks::All,
        },
        codec: arguments.compression,
        linger: Duration::from_millis(arguments.linger_ms),
        batch_bytes: arguments.batch_bytes,
        idempotent: !arguments.no_idempotence,
        delivery_timeout: arguments.connect.timeout,
        auto_create: AutoCreate::Allowed,
        on_batch: Some(Rc::new(move |report: &BatchReport<'_>| told.count(report))),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let topic = producer.topic(&arguments.topic).await?;
    let started = Instant::now();
    let progress = progress_bar(input.size_bytes);
    let work = async {
        let sent = send_lines(&mut input, &topic, &arguments, &tally, &progress).await;
        producer.flush().await?;
        sent
    };
    let cut_off = async {
        stop_signal().wait().await;
        time::sleep(STOP_GRACE).await;
        bail!("interrupted before everything was acknowledged")
    };
    let sent = future::or(work, cut_off).await;
    progress.finish_and_clear();
    summarise(&tally, started.elapsed(), format)?;
    if let Some(error) = tally.first_error.borrow_mut().take() {
        let failed = grouped(tally.failed.get());
        return Err(anyhow::Error::new(error).context(format!("{failed} records were not written")));
    }
    sent.map(|()| ExitCode::SUCCESS)
}

/// Sends line by line until the end, Ctrl-C, or the first failure.
async fn send_lines(
    input: &mut Input,
    topic: &TopicProducer,
    arguments: &Produce,
    tally: &Tally,
    progress: &ProgressBar,
) -> Result<()> {
    let stop = stop_signal();
    let separator = arguments.key_separator.as_deref().map(str::as_bytes);
    while let Some(block) = next_block(input, &stop).await {
        let block = block.context("cannot read the input")?;
        for line in lines(&block) {
            let (key, value) = split_key(line, separator);
            let record =
                OutRecord { partition: arguments.partition, key, value: Some(value), ..OutRecord::default() };
            topic.send(record).await?;
            if tally.has_failed() {
                return Ok(());
            }
        }
        progress.inc(u64::try_from(block.len()).unwrap_or(0));
        progress.set_message(format!("{} records", grouped(tally.delivered.get())));
    }
    Ok(())
}

async fn next_block(input: &mut Input, stop: &StopSignal) -> Option<std::io::Result<Vec<u8>>> {
    future::or(
        async {
            stop.wait().await;
            None
        },
        input.next(),
    )
    .await
}

/// What precedes the first separator is the key; without one there is none.
fn split_key<'a>(line: &'a [u8], separator: Option<&[u8]>) -> (Option<&'a [u8]>, &'a [u8]) {
    let found = separator.and_then(|separator| {
        let at = line.windows(separator.len()).position(|window| window == separator)?;
        Some((&line[..at], &line[at + separator.len()..]))
    });
    match found {
        Some((key, value)) => (Some(key), value),
        None => (None, line),
    }
}

/// On stderr, and only if that is a terminal.
fn progress_bar(size_bytes: Option<u64>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let (bar, template) = match size_bytes {
        Some(size) => (
            ProgressBar::with_draw_target(Some(size), target),
            "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {msg}  {eta} left",
        ),
        None => (ProgressBar::with_draw_target(None, target), "{spinner} {bytes}  {bytes_per_sec}  {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("a template of known keys");
    bar.with_style(style)
}

fn summarise(tally: &Tally, elapsed: Duration, format: Format) -> Result<()> {
    let (records, bytes) = (tally.delivered.get(), tally.delivered_bytes.get());
    let nanos = elapsed.as_nanos().max(1);
    let per_second = u64::try_from(u128::from(records) * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
    match format {
        Format::Json => print_json(&json!({
            "records": records,
            "bytes": bytes,
            "failed": tally.failed.get(),
            "seconds": elapsed.as_secs_f64(),
        })),
        Format::Text => {
            let time = match elapsed.as_secs() {
                0..60 => format!("{:.2} s", elapsed.as_secs_f64()),
                _ => HumanDuration(elapsed).to_string(),
            };
            let noun = if records == 1 { "record" } else { "records" };
            eprintln!(
                "{} {noun} ({}) in {time}: {} a second",
                grouped(records),
                HumanBytes(bytes),
                grouped(per_second)
            );
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_what_precedes_the_first_separator() {
        let colon = Some(b":".as_slice());
        assert_eq!(split_key(b"a:b:c", colon), (Some(b"a".as_slice()), b"b:c".as_slice()));
        assert_eq!(split_key(b":b", colon), (Some(b"".as_slice()), b"b".as_slice()));
        assert_eq!(split_key(b"b", colon), (None, b"b".as_slice()));
        assert_eq!(split_key(b"a:b", None), (None, b"a:b".as_slice()));
        assert_eq!(split_key(b"a", Some(b"=>")), (None, b"a".as_slice()));
        assert_eq!(split_key(b"a=>b", Some(b"=>")), (Some(b"a".as_slice()), b"b".as_slice()));
    }
}
