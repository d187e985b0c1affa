use std::io::{self, BufRead, Write};
use std::path::Path;

use crate::archive::ImageArchive;
use crate::budget::Budget;
use crate::digest::Digest;
use crate::file_system::FileSystem;
use crate::files::{open, section};
use crate::orders::{Fault, Layer, Limits, Order, Report, read_line, write_line};
use crate::save;

/// Where a worker's files are: its own directory.
const HERE: &str = ".";
/// What an archive is called that had to be decompressed as a whole.
const PLAIN: &str = "plain";

/// Executes orders in the working directory until their input ends. After a failure all later orders fail.
pub fn work(mut orders: impl BufRead, mut reports: impl Write) -> io::Result<()> {
    let mut worker: Option<Worker> = None;
    while let Some(order) = read_line(&mut orders)? {
        let report = match (order, &mut worker) {
            (Order::Begin(limits), none) => {
                *none = Some(Worker::new(limits));
                Report::Done
            }
            (order, Some(worker)) => worker.carry_out(order).unwrap_or_else(Report::Failed),
            (_, None) => return Err(io::Error::other("the first order is not to begin")),
        };
        write_line(&mut reports, &report)?;
    }
    Ok(())
}

struct Worker {
    limits: Limits,
    budget: Budget,
    file_system: FileSystem,
    failed: Option<Fault>,
}

impl Worker {
    fn new(limits: Limits) -> Self {
        let (budget, file_system) = (Budget::new(limits.bytes), FileSystem::new(limits.tree));
        Self { limits, budget, file_system, failed: None }
    }

    fn carry_out(&mut self, order: Order) -> Result<Report, Fault> {
        if let Some(fault) = &self.failed {
            return Err(fault.clone());
        }
        let done = match order {
            Order::Begin(_) => Err(Fault::Invalid("the worker has already begun".into())),
            Order::Read(archive) => self.read(&archive),
            Order::Add(layer) => self.add(&layer).map(|()| Report::Done),
            Order::Write(out) => self.file_system.write(Path::new(&out)).map(|()| Report::Done),
            Order::Save { save, out } => {
                save::save(&save, Path::new(&out), &self.budget).map(|()| Report::Done)
            }
        };
        done.inspect_err(|fault| self.failed = Some(fault.clone()))
    }

    fn read(&self, archive: &str) -> Result<Report, Fault> {
        let file = open(archive)?;
        let archive = ImageArchive::open(archive, file, Path::new(PLAIN), self.limits.bytes)?;
        archive.image().map(Report::Image)
    }

    fn add(&mut self, layer: &Layer) -> Result<(), Fault> {
        let bad = |reason: String| Fault::Layer { layer: layer.name.clone(), reason };
        let diff_id: Digest = layer.diff_id.parse().map_err(|e| bad(format!("{e}")))?;
        let content = section(&layer.content)?;
        self.file_system.add(content, &diff_id, Path::new(HERE), &self.budget).map_err(bad)
    }
}
