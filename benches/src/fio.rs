//! fio as a guest: one workload against one export.

use crate::Result;
use crate::process::{Ended, Process, finish};
use crate::server::Server;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the guest does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Its name in tables.
    pub(crate) name: &'static str,
    /// fio's `rw`.
    pub(crate) rw: &'static str,
    /// Bytes a request.
    pub(crate) block: u64,
    /// Requests in flight.
    pub(crate) depth: u32,
    /// fio's `random_distribution`.
    pub(crate) distribution: &'static str,
}

/// The usual five, as peers were measured with.
pub(crate) const WORKLOADS: [Workload; 5] = [
    Workload { name: "4k write QD32", rw: "randwrite", block: 4096, depth: 32, distribution: "random" },
    Workload { name: "4k write QD1", rw: "randwrite", block: 4096, depth: 1, distribution: "random" },
    Workload { name: "64k write QD8", rw: "randwrite", block: 65536, depth: 8, distribution: "random" },
    Workload { name: "1M write QD4", rw: "randwrite", block: 1 << 20, depth: 4, distribution: "random" },
    Workload { name: "4k read QD32", rw: "randread", block: 4096, depth: 32, distribution: "random" },
];

/// 90 % of the writes go to 10 % of the disk.
pub(crate) const SKEWED: Workload = Workload {
    name: "4k write QD32, 90 % on 10 %",
    rw: "randwrite",
    block: 4096,
    depth: 32,
    distribution: "zoned:90/10:10/90",
};

/// What fio saw.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Seen {
    /// Requests a second.
    pub(crate) iops: f64,
    /// Requests.
    pub(crate) requests: f64,
    /// Completion latency in microseconds.
    pub p50_us: f64,
    /// Completion latency in microseconds.
    pub p99_us: f64,
    /// Completion latency in microseconds.
    pub p999_us: f64,
    /// The server's CPU time for each request, in microseconds; 0 where it was not looked at.
    pub(crate) cpu_us: f64,
}

fn command(server: &Server, workload: &Workload, seconds: f64) -> Command {
    let mut command = Command::new("fio");
    let socket = server.socket.display();
    command
        .args(["--name=guest", "--ioengine=nbd", "--output-format=json", "--norandommap", "--randrepeat=0"])
        .args(["--time_based", "--thread", "--percentile_list=50:99:99.9"])
        .arg(format!("--uri=nbd+unix:///{}?socket={socket}", server.export))
        .arg(format!("--rw={}", workload.rw))
        .arg(format!("--bs={}", workload.block))
        .arg(format!("--iodepth={}", workload.depth))
        .arg(format!("--random_distribution={}", workload.distribution))
        .arg(format!("--size={}", server.size))
        .arg(format!("--runtime={}ms", (seconds * 1000.0) as u64));
    command
}

/// Runs a workload for some seconds, with the server's CPU time.
pub(crate) fn measure(server: &Server, workload: &Workload, seconds: f64) -> Result<Seen> {
    let before = server.process.cpu()?;
    let Ended { output, .. } = finish(&mut command(server, workload, seconds))?;
    let cpu = server.process.cpu()? - before;
    let mut seen = parse(&output, workload)?;
    seen.cpu_us = cpu.as_secs_f64() * 1e6 / seen.requests.max(1.0);
    Ok(seen)
}

/// A guest that writes until it is stopped.
#[derive(Debug)]
pub(crate) struct Guest {
    process: Process,
    workload: Workload,
    output: PathBuf,
}

impl Guest {
    /// Starts it; `folder` takes what it says.
    pub(crate) fn start(server: &Server, workload: Workload, folder: &Path) -> Result<Self> {
        let output = folder.join("guest.json");
        let mut command = command(server, &workload, 3600.0);
        command.arg(format!("--output={}", output.display())).stdout(Stdio::null());
        let process = Process::start(&mut command, &folder.join("fio.log"))?;
        // It reads its options and connects.
        std::thread::sleep(Duration::from_millis(300));
        Ok(Self { process, workload, output })
    }

    /// Stops it and tells what it saw.
    pub(crate) fn stop(mut self) -> Result<Seen> {
        self.process.stop(libc::SIGINT)?;
        parse(&std::fs::read_to_string(&self.output)?, &self.workload)
    }
}

fn parse(text: &str, workload: &Workload) -> Result<Seen> {
    // A line or two about signals may stand before the object.
    let start = text.find('{').ok_or_else(|| format!("fio says no JSON: {text}"))?;
    let value: serde_json::Value = serde_json::from_str(text[start..].trim_end())?;
    let job = &value["jobs"][0];
    if job["error"].as_i64() != Some(0) {
        return Err(format!("fio's job failed: {}", job["error"]).into());
    }
    let kind = &job[if workload.rw.ends_with("read") { "read" } else { "write" }];
    let percentile = |name: &str| kind["clat_ns"]["percentile"][name].as_f64().unwrap_or(0.0) / 1000.0;
    Ok(Seen {
        iops: kind["iops"].as_f64().ok_or("fio tells no iops")?,
        requests: kind["total_ios"].as_f64().ok_or("fio tells no requests")?,
        p50_us: percentile("50.000000"),
        p99_us: percentile("99.000000"),
        p999_us: percentile("99.900000"),
        cpu_us: 0.0,
    })
}
