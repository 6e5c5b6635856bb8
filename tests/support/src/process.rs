//! Statistics of another process: processor time, memory, threads, context switches.
//!
//! Read from `/proc` where it exists (Linux: nanoseconds of processor time), else from `ps` and
//! `procstat` (FreeBSD: hundredths of a second, so its measurements must be long enough).

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::Outcome;

/// A process that is observed from outside.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// Processor time used so far, user and system, without that of its children.
    pub fn cpu(self) -> Outcome<Duration> {
        // schedstat(5): time on the processor in ns, time waiting, slices. Of the main thread, the
        // only one of the measured programs.
        if let Ok(text) = fs::read_to_string(format!("/proc/{}/schedstat", self.0))
            && let Some(nanoseconds) = text.split_whitespace().next()
        {
            return Ok(Duration::from_nanos(nanoseconds.parse()?));
        }
        clock_time(&self.ps("time")?)
    }

    /// Resident memory in bytes.
    pub fn resident(self) -> Outcome<u64> {
        // smaps_rollup is exact; VmRSS of status may lag behind by a batch for each processor.
        let kibibytes = self
            .proc_number("smaps_rollup", "Rss:")
            .or_else(|| self.proc_number("status", "VmRSS:"));
        Ok(1024
            * match kibibytes {
                Some(kibibytes) => kibibytes,
                None => self.ps("rss")?.parse()?,
            })
    }

    /// Peak resident memory, in bytes; `None` where this system does not report it.
    pub fn peak(self) -> Option<u64> {
        self.proc_number("status", "VmHWM:")
            .or_else(|| {
                let output =
                    Command::new("procstat").args(["rusage", &self.0.to_string()]).output().ok()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let line = text.lines().find(|line| line.contains("maximum RSS"))?;
                line.split_whitespace().find_map(|word| word.parse().ok())
            })
            .map(|kibibytes: u64| kibibytes * 1024)
    }

    /// Number of threads.
    pub fn threads(self) -> Outcome<u64> {
        match self.proc_number("status", "Threads:") {
            Some(threads) => Ok(threads),
            None => Ok(self.ps("nlwp")?.parse()?),
        }
    }

    /// Number of voluntary context switches: one for each wake-up.
    pub fn sleeps(self) -> Outcome<u64> {
        match self.proc_number("status", "voluntary_ctxt_switches:") {
            Some(switches) => Ok(switches),
            None => Ok(self.ps("nvcsw")?.parse()?),
        }
    }

    /// Number of open descriptors.
    pub fn descriptors(self) -> Outcome<usize> {
        if let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.0)) {
            return Ok(entries.count());
        }
        // A head line, then a line for each, the ones with a number for a descriptor.
        let output = Command::new("procstat").args(["-f", &self.0.to_string()]).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_number = |line: &&str| {
            line.split_whitespace().nth(2).is_some_and(|fd| fd.parse::<u32>().is_ok())
        };
        Ok(text.lines().filter(is_number).count())
    }

    /// Numbers of its children.
    pub fn children(self) -> Outcome<Vec<u32>> {
        // With one -o the ps of BSD takes all behind the first = for one title.
        let output = Command::new("ps").args(["-A", "-o", "pid=", "-o", "ppid="]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let pairs = text.lines().filter_map(|line| {
            let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
            Some((numbers.next()?, numbers.next()?))
        });
        Ok(pairs.filter(|(_, parent)| *parent == self.0).map(|(pid, _)| pid).collect())
    }

    /// The name of its program.
    pub fn name(self) -> Outcome<String> {
        self.ps("comm")
    }

    /// Whether it exists and is not a zombie.
    pub fn is_alive(self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.0)).ok().and_then(|stat| {
            // The name before it stands in parentheses and may hold anything.
            Some(stat.rsplit_once(") ")?.1.to_owned())
        });
        state.or_else(|| self.ps("state").ok()).is_some_and(|state| !state.starts_with('Z'))
    }

    fn proc_number(self, file: &str, key: &str) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.0)).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    fn ps(self, column: &str) -> Outcome<String> {
        let output = Command::new("ps")
            .args(["-o", &format!("{column}="), "-p", &self.0.to_string()])
            .output()?;
        let text = String::from_utf8(output.stdout)?.trim().to_owned();
        if text.is_empty() {
            return Err(format!("ps does not tell {column} of process {}", self.0).into());
        }
        Ok(text)
    }
}

/// Reads `ps -o time`: `[[days-]hours:]minutes:seconds[.hundredths]`.
fn clock_time(text: &str) -> Outcome<Duration> {
    let (days, clock) = match text.split_once('-') {
        Some((days, clock)) => (days.parse::<f64>()?, clock),
        None => (0.0, text),
    };
    let mut seconds = 0.0;
    for part in clock.split(':') {
        seconds = seconds * 60.0 + part.parse::<f64>()?;
    }
    Ok(Duration::from_secs_f64(days * 86400.0 + seconds))
}
