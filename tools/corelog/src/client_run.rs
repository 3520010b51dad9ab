//! Running a command that is a Kafka client, on one executor of the runtime.

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal, Stderr, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use corelog_net::client::{Client, ClientOptions, RetryOptions};
use corelog_runtime::shards::{self, ShardContext, stop_signal};
use futures_lite::future;

use crate::cli::Connect;

/// Connects, and runs `command` to its end.
pub(crate) fn with_client<F>(
    connect: Connect,
    on_signal: OnSignal,
    command: impl Fn(Client) -> F + Send + Clone + 'static,
) -> Result<ExitCode>
where
    F: Future<Output = Result<ExitCode>> + 'static,
{
    on_executor(on_signal, move || {
        let (connect, command) = (connect.clone(), command.clone());
        async move {
            let mut options = ClientOptions::new([connect.bootstrap]);
            options.retry = RetryOptions { give_up_after: connect.timeout, ..options.retry };
            options.connect_timeout = options.connect_timeout.min(connect.timeout);
            options.request_timeout = options.request_timeout.min(connect.timeout);
            let stopped = async {
                stop_signal().wait().await;
                Ok(None)
            };
            let mut note = Note::new(std::io::stderr().is_terminal().then(std::io::stderr));
            let connected =
                async { Client::connect_in_time(options, |error| note.show(error)).await.map(Some) };
            let outcome = future::or(connected, stopped).await;
            note.clear();
            match outcome? {
                Some(client) => command(client).await,
                None => Ok(ExitCode::from(INTERRUPTED)),
            }
        }
    })
}

/// The line on a terminal that says why nothing happens yet.
struct Note<W: Write = Stderr> {
    out: Option<W>,
    is_shown: bool,
}

impl<W: Write> Note<W> {
    /// None without a terminal: a log would get a line with every attempt.
    fn new(out: Option<W>) -> Self {
        Self { out, is_shown: false }
    }

    /// The first reason: later ones are mostly the same.
    fn show(&mut self, reason: &dyn Display) {
        if let Some(out) = &mut self.out
            && !std::mem::replace(&mut self.is_shown, true)
        {
            // Nobody reads stderr: nothing is wrong with the command.
            let _ = write!(out, "{reason}; trying again").and_then(|()| out.flush());
        }
    }

    fn clear(&mut self) {
        if let Some(out) = &mut self.out
            && std::mem::replace(&mut self.is_shown, false)
        {
            let _ = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

/// Exit code of a command that SIGINT or SIGTERM ended, as shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// What SIGINT and SIGTERM do to a command; the runtime has taken their usual effect away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnSignal {
    /// They end it.
    Ends,
    /// It looks out for them itself, to end in order.
    Handles,
}

/// Runs a command on an executor of its own.
pub(crate) fn on_executor<F>(
    on_signal: OnSignal,
    command: impl Fn() -> F + Send + Clone + 'static,
) -> Result<ExitCode>
where
    F: Future<Output = Result<ExitCode>> + 'static,
{
    let outcome = Arc::new(Mutex::new(None));
    let place = Arc::clone(&outcome);
    let options = shards::Options { shards: 1, ..shards::Options::default() };
    shards::run(options, move |_: ShardContext<(), ()>| {
        let (command, place) = (command.clone(), Arc::clone(&place));
        async move {
            let stopped = async {
                stop_signal().wait().await;
                Ok(ExitCode::from(INTERRUPTED))
            };
            let result = match on_signal {
                OnSignal::Ends => future::or(command(), stopped).await,
                OnSignal::Handles => command().await,
            };
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            Ok::<(), std::convert::Infallible>(())
        }
    })?;
    let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
    outcome.take().context("the executor was stopped before the command ended")?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_one_note_that_goes_away_and_a_log_has_none() {
        let mut note = Note::new(Some(Vec::new()));
        note.clear();
        note.show(&"nobody is there");
        note.show(&"still nobody is there");
        assert_eq!(note.out.as_deref(), Some(b"nobody is there; trying again".as_slice()));
        note.clear();
        note.clear();
        assert_eq!(note.out.as_deref(), Some(b"nobody is there; trying again\r\x1b[K".as_slice()));
        let mut none = Note::<Vec<u8>>::new(None);
        none.show(&"nobody is there");
        none.clear();
    }
}
