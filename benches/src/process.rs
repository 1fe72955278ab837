//! A program that runs beside us: what it used, and its end.

use crate::Result;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end after it was asked to: only detects a hang.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    ended: bool,
}

/// What a program that has ended used.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// From its start to its end.
    pub(crate) seconds: f64,
    /// CPU time, user and system.
    pub(crate) cpu_seconds: f64,
    /// Peak resident memory in bytes.
    pub(crate) peak_bytes: u64,
    /// Standard output.
    pub(crate) output: String,
}

impl Process {
    /// Starts a program whose log lines go to a file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let file = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stderr(file);
        let child = command.spawn().map_err(|error| format!("{name} can't be started: {error}"))?;
        Ok(Self { child, name, ended: false })
    }

    /// CPU time so far, user and system, of all its threads.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th word behind it.
        let rest = text.rsplit(')').next().unwrap_or_default();
        let word =
            |place: usize| rest.split_whitespace().nth(place).and_then(|word| word.parse::<u64>().ok());
        let ticks = word(11).zip(word(12)).map(|(user, system)| user + system).ok_or("no times in stat")?;
        // SAFETY: takes no pointer.
        let second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as u64;
        Ok(Duration::from_micros(ticks * 1_000_000 / second))
    }

    /// A line of `/proc/PID/status` that counts memory, in bytes.
    pub(crate) fn memory(&self, line: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let found = text.lines().find_map(|have| have.strip_prefix(line)?.strip_prefix(':'));
        let kib = found.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kib.ok_or_else(|| format!("no {line} in status"))? * 1024)
    }

    /// The files that it has mapped.
    pub(crate) fn mapped_files(&self) -> Result<Vec<PathBuf>> {
        let text = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id()))?;
        let path = |line: &str| line.find('/').map(|start| PathBuf::from(&line[start..]));
        Ok(text.lines().filter_map(path).collect())
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.ended = self.ended || self.child.try_wait().is_ok_and(|status| status.is_some());
        self.ended
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: i32) {
        if !self.ended {
            // SAFETY: takes no pointer; the child was not reaped, so the id is still its own.
            unsafe { libc::kill(self.child.id() as i32, signal) };
        }
    }

    /// The standard output, for a program that was started with it piped.
    pub(crate) fn output(&mut self) -> Result<std::process::ChildStdout> {
        self.child.stdout.take().ok_or_else(|| format!("{} has no output", self.name).into())
    }

    /// Asks it to end with this signal and waits.
    pub(crate) fn stop(&mut self, signal: i32) -> Result<()> {
        self.signal(signal);
        let since = Instant::now();
        while !self.has_ended() {
            if since.elapsed() > PATIENCE {
                return Err(format!("{} does not end", self.name).into());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() && self.stop(libc::SIGTERM).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It can't be started or fails; then with the last lines that it said.
pub(crate) fn finish(command: &mut Command) -> Result<Ended> {
    run(command, Stdio::piped())
}

/// The same with standard output into a file.
///
/// # Errors
/// As [`finish`].
pub(crate) fn finish_into(command: &mut Command, file: File) -> Result<Ended> {
    run(command, file.into())
}

fn run(command: &mut Command, stdout: Stdio) -> Result<Ended> {
    let begun = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let mut said = tempfile::tempfile()?;
    command.stdin(Stdio::null()).stdout(stdout).stderr(said.try_clone()?);
    let mut child = command.spawn().map_err(|error| format!("{name} can't be started: {error}"))?;
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut output)?;
    }
    let mut status = 0;
    // SAFETY: all zeros is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the child is ours and nobody else waits for it.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    let seconds = begun.elapsed().as_secs_f64();
    if waited < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != 0 {
        let mut text = String::new();
        std::io::Seek::rewind(&mut said)?;
        said.read_to_string(&mut text)?;
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        let lines: Vec<_> = lines.into_iter().rev().collect();
        return Err(format!("{name} failed ({status}): {}", lines.join(" / ")).into());
    }
    let time = |value: libc::timeval| value.tv_sec as f64 + value.tv_usec as f64 / 1e6;
    Ok(Ended {
        seconds,
        cpu_seconds: time(usage.ru_utime) + time(usage.ru_stime),
        peak_bytes: usage.ru_maxrss as u64 * 1024,
        output,
    })
}
