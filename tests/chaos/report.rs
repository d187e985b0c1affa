//! What it came to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::neighbour::Seen;
use crate::operations::Asked;

/// A fault that came.
#[derive(Debug)]
pub struct Came {
    /// What it is called.
    pub name: &'static str,
    /// When it came.
    pub at: Instant,
    /// How long until it was mended, and the neighbour was served again.
    pub mended_after: Duration,
}

/// The report of a run.
#[derive(Debug)]
pub struct Report {
    /// What repeats its choices.
    pub seed: u64,
    /// Faults, in their order.
    pub faults: Vec<Came>,
    /// What was asked for.
    pub asked: Vec<Asked>,
    /// Containers that were asked for.
    pub containers: usize,
    /// They, by what became of them.
    pub ends: BTreeMap<String, usize>,
    /// Actions that were begun and have no end.
    pub without_end: usize,
    /// What the neighbour saw.
    pub seen: Seen,
    /// Seconds for which his process did not run, at most.
    pub longest_pause: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |count: fn(&Asked) -> usize| self.asked.iter().map(count).sum::<usize>();
        writeln!(f, "chaos of seed {}", self.seed)?;
        writeln!(f, "{:<36} {:>10} {:>28}", "fault", "lasted", "longest silence of the API")?;
        for came in &self.faults {
            let silence = self.seen.longest_silence(came.at, came.at + came.mended_after);
            let (lasted, silence) = (came.mended_after.as_secs_f64(), silence.as_secs_f64());
            writeln!(f, "{:<36} {lasted:>8.1} s {silence:>26.1} s", came.name)?;
        }
        let (operations, refused) = (sum(|asked| asked.operations), sum(|asked| asked.refused));
        writeln!(f, "faults: {}", self.faults.len())?;
        writeln!(
            f,
            "operations asked for: {operations}; done: {}; refused or not answered: {refused}; lost without an end: {}",
            operations - refused,
            self.without_end
        )?;
        writeln!(f, "containers asked for: {}; in the end: {:?}", self.containers, self.ends)?;
        let (answered, all) = self.seen.answered;
        let silence = self.seen.silences.iter().map(|(_, lasted)| *lasted).max().unwrap_or_default();
        writeln!(
            f,
            "the neighbour was answered {answered} of {all} times; the longest silence was {:.1} s",
            silence.as_secs_f64()
        )?;
        write!(f, "his process stood still for at most {:.2} s", self.longest_pause)
    }
}

impl Seen {
    /// The longest silence of which a part was between these times.
    fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let within = self.silences.iter().filter(|(began, lasted)| *began < to && *began + *lasted > from);
        within.map(|(_, lasted)| *lasted).max().unwrap_or_default()
    }
}
