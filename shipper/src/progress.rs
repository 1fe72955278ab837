//! What a person sees while a freeze ships: a bar with rate and time left on a terminal, log lines otherwise. Both on
//! standard error; standard output belongs to the result.

use crate::pipeline::Counters;
use crate::ship::{Report, Summary};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a line is logged without a terminal.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Shows the progress of cycles.
pub struct Progress {
    bar: Option<ProgressBar>,
    terminal: bool,
    logged: Instant,
    /// Bytes done at the last line.
    done: u64,
    json: bool,
}

impl Progress {
    /// With a bar if standard error is a terminal; with `json`, each published entry is a line on standard output.
    pub fn new(json: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bar: None, terminal, logged: Instant::now(), done: 0, json }
    }
}

fn bar(todo: u64) -> ProgressBar {
    let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta} left {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(todo), ProgressDrawTarget::stderr()).with_style(style)
}

impl Report for Progress {
    fn progress(&mut self, counters: &Counters) {
        let (todo, done) = (Counters::get(&counters.todo), Counters::get(&counters.done));
        if self.terminal {
            let bar = self.bar.get_or_insert_with(|| bar(todo));
            bar.set_length(todo);
            bar.set_position(done);
            let (put, store) = (Counters::get(&counters.put), Counters::get(&counters.from_store));
            bar.set_message(format!("put {}, {store} blocks from the store", crate::cli::bytes(put)));
        } else if self.logged.elapsed() >= LOG_EVERY {
            let seconds = self.logged.elapsed().as_secs_f64();
            let rate = done.saturating_sub(self.done) as f64 / seconds;
            let left = todo.saturating_sub(done) as f64 / rate.max(1.0);
            tracing::info!(
                done = crate::cli::bytes(done),
                of = crate::cli::bytes(todo),
                per_second = crate::cli::bytes(rate as u64),
                seconds_left = left.round(),
                "shipping"
            );
            (self.logged, self.done) = (Instant::now(), done);
        }
    }

    fn published(&mut self, summary: &Summary) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        (self.logged, self.done) = (Instant::now(), 0);
        tracing::info!(
            changed = crate::cli::bytes(summary.bytes_changed),
            read = crate::cli::bytes(summary.bytes_read),
            put = crate::cli::bytes(summary.bytes_put),
            from_store = summary.reads_from_store,
            requests = summary.requests.requests_put,
            gets = summary.requests.requests_get,
            seconds = (summary.seconds * 1000.0).round() / 1000.0,
            "{} {}",
            summary.kind,
            summary.id
        );
        if self.json {
            match crate::cli::json(summary).and_then(|line| crate::cli::print(&line)) {
                Ok(()) => {}
                Err(error) => tracing::warn!(error = error.line(), "the result can't be told"),
            }
        }
    }
}
