//! Token buckets that hold a device to its [`RateLimit`].

use std::time::{Duration, Instant};

use crate::config::RateLimit;

/// The state of a [`RateLimit`].
#[derive(Debug)]
pub struct RateLimiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl RateLimiter {
    /// A limiter with full bursts.
    pub fn new(limit: RateLimit, now: Instant) -> Self {
        Self {
            bytes: Bucket::new(limit.bytes, limit.burst_bytes, now),
            operations: Bucket::new(limit.operations, limit.burst_operations, now),
        }
    }

    /// Time to wait before the next operation may begin; `None` if it may begin now.
    pub fn wait(&mut self, now: Instant) -> Option<Duration> {
        let waits = [&mut self.bytes, &mut self.operations].into_iter().flatten();
        waits.filter_map(|bucket| bucket.wait(now)).max()
    }

    /// Counts an operation that moves `bytes`. An operation larger than what is left is not split: the following ones
    /// wait longer.
    pub fn count(&mut self, bytes: u64) {
        for (bucket, amount) in [(&mut self.bytes, bytes), (&mut self.operations, 1)] {
            if let Some(bucket) = bucket {
                bucket.take(amount);
            }
        }
    }
}

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    per_second: u64,
    most: f64,
    /// Negative after an operation that was larger than what was left.
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: u64, burst: u64, now: Instant) -> Option<Self> {
        let most = per_second.max(burst) as f64;
        (per_second > 0).then_some(Self { per_second, most, left: most, at: now })
    }

    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + elapsed * self.per_second as f64).min(self.most);
        self.at = now;
        (self.left <= 0.0).then(|| Duration::from_secs_f64((1.0 - self.left) / self.per_second as f64))
    }

    fn take(&mut self, amount: u64) {
        self.left -= amount as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of operations of `size` bytes that may begin within `seconds`, attempted without pause.
    fn count(limit: RateLimit, size: u64, seconds: u64) -> u64 {
        let start = Instant::now();
        let end = start + Duration::from_secs(seconds);
        let (mut limiter, mut now, mut count) = (RateLimiter::new(limit, start), start, 0);
        while now < end {
            match limiter.wait(now) {
                Some(wait) => now += wait,
                None => {
                    limiter.count(size);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn a_second_has_what_it_may_and_the_first_its_burst() {
        let operations = RateLimit { operations: 100, ..Default::default() };
        assert!((1090..=1110).contains(&count(operations, 4096, 10)));
        let burst = RateLimit { operations: 100, burst_operations: 1000, ..Default::default() };
        assert!((1990..=2010).contains(&count(burst, 4096, 10)));
        let bytes = RateLimit { bytes: 1 << 20, ..Default::default() };
        let moved = count(bytes, 64 << 10, 10) * (64 << 10);
        assert!(((10 << 20)..=(12 << 20)).contains(&moved), "{moved}");
    }

    #[test]
    fn an_operation_larger_than_the_bound_is_made_up_for() {
        let limit = RateLimit { bytes: 1000, ..Default::default() };
        let start = Instant::now();
        let mut limiter = RateLimiter::new(limit, start);
        assert_eq!(limiter.wait(start), None);
        limiter.count(11_000);
        let wait = limiter.wait(start).unwrap();
        assert!(wait > Duration::from_secs(9) && wait < Duration::from_secs(11), "{wait:?}");
        assert_eq!(limiter.wait(start + Duration::from_secs(11)), None);
    }

    #[test]
    fn the_narrower_bound_holds() {
        let limit = RateLimit { bytes: 1_000_000, operations: 10, ..Default::default() };
        assert!((105..=112).contains(&count(limit, 10, 10)));
    }
}
