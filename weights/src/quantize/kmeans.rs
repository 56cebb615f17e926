//! The best `k` centroids of weighted numbers on a line, exactly.
//!
//! An optimal clustering of numbers on a line consists of intervals, and the cost `w(a, b)` of the interval `[a, b)`
//! (its weighted squared error) has the Monge property `w(a, c) + w(b, d) <= w(a, d) + w(b, c)` for `a <= b <= c <= d`.
//! So the least cost `f(k)` of `k` intervals is convex in `k`, and
//!
//! - for a price `p` on each interval, the least `cost + p * intervals` is a one-dimensional dynamic program whose
//!   choices are monotone: `O(n log n)` with a queue of candidates (Galil & Park 1992);
//! - a price is sought for which that takes `k` intervals. Every try halves in on `k` from below or above;
//! - where no price gives `k` because several counts tie, a solution with fewer and one with more intervals at the same
//!   price are crossed into one of exactly `k` that costs no more (Aggarwal, Schieber & Tokuyama 1994).
//!
//! The answer is a global optimum up to the rounding of sums: prefix sums are centred on the mean and compensated, so a
//! difference of clusterings is seen unless it is below about `k * 2^-51` of the cost of one cluster.

use snapc_ir::{Error, Result};

/// Centroids and what they cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Clusters {
    /// `k` centroids, ascending, each the weighted mean of its cluster. Of fewer distinct numbers than `k` the last is
    /// repeated.
    pub centroids: Vec<f32>,
    /// The weighted sum of squared distances to the means before they are rounded to f32.
    pub cost: f64,
}

/// The `k` centroids with the least `sum_i weights[i] * (values[i] - its centroid)^2`.
///
/// `values`: distinct, ascending. `weights`: as many, counts or importances; a number of weight 0 has no say, but if
/// all are 0, all have the same.
///
/// # Errors
/// If `k` is 0, there are no values, the lengths differ, values are not finite, distinct and ascending, or a weight is
/// negative or not finite.
pub fn kmeans(values: &[f32], weights: &[f64], k: usize) -> Result<Clusters> {
    check(values, weights, k)?;
    let line = Line::new(values, weights);
    let n = line.points.len();
    let bounds = if n <= k { (0..=n).collect() } else { line.intervals(k) };
    let mut cost = 0.0;
    let mut centroids: Vec<f32> = Vec::with_capacity(k);
    for pair in bounds.windows(2) {
        let (mean, error) = moments(&line.points[pair[0]..pair[1]]);
        cost += error;
        // Means of clusters ascend, and so do their roundings.
        centroids.push(mean as f32);
    }
    let last = centroids.last().copied().unwrap_or_default();
    centroids.resize(k, last);
    Ok(Clusters { centroids, cost })
}

fn check(values: &[f32], weights: &[f64], k: usize) -> Result<()> {
    if k == 0 || values.is_empty() || values.len() != weights.len() {
        return Err(Error::bug(format!(
            "{k} clusters of {} numbers with {} weights",
            values.len(),
            weights.len()
        )));
    }
    let ascending = values.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || values.iter().any(|value| !value.is_finite()) {
        return Err(Error::bug("the numbers to cluster are not finite, distinct and ascending"));
    }
    if let Some(wrong) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        return Err(Error::input(format!("an importance is {wrong}, not a finite number of at least 0")));
    }
    Ok(())
}

/// The weighted mean of points and the weighted sum of squared distances to it, in two passes.
fn moments(points: &[(f64, f64)]) -> (f64, f64) {
    let Some(&(origin, _)) = points.first() else { return (0.0, 0.0) };
    let (mut total, mut sum) = (0.0, 0.0);
    for (value, weight) in points {
        total += weight;
        sum += weight * (value - origin);
    }
    let shift = sum / total;
    let error = points.iter().map(|(value, weight)| weight * (value - origin - shift).powi(2)).sum();
    (origin + shift, error)
}

/// Sums over all points before one: weight, weight * value, weight * value^2. Values are centred on the mean.
#[derive(Clone, Copy, Default)]
struct Prefix {
    weight: f64,
    first: f64,
    second: f64,
}

/// What [`Line::cheapest`] finds: interval bounds from 0 to n, and their cost without the price.
struct Path {
    bounds: Vec<usize>,
    cost: f64,
    price: f64,
}

impl Path {
    fn count(&self) -> usize {
        self.bounds.len() - 1
    }
}

/// A candidate of the monotone queue: the interval that begins at `begin` is the best last one for ends from `from` on.
#[derive(Clone, Copy)]
struct Candidate {
    begin: usize,
    from: usize,
}

/// Points (value, weight) of positive weight on a line, ascending.
struct Line {
    points: Vec<(f64, f64)>,
    prefixes: Vec<Prefix>,
}

impl Line {
    fn new(values: &[f32], weights: &[f64]) -> Self {
        let all_zero = weights.iter().all(|weight| *weight == 0.0);
        let points: Vec<(f64, f64)> = values
            .iter()
            .zip(weights)
            .filter(|(_, weight)| all_zero || **weight > 0.0)
            .map(|(value, weight)| (f64::from(*value), if all_zero { 1.0 } else { *weight }))
            .collect();
        let (mean, _) = moments(&points);
        let (mut weight_sum, mut first, mut second) = (Sum::default(), Sum::default(), Sum::default());
        let mut prefixes = vec![Prefix::default()];
        for (value, weight) in &points {
            let centred = value - mean;
            weight_sum.add(*weight);
            first.add(weight * centred);
            second.add(weight * centred * centred);
            prefixes.push(Prefix {
                weight: weight_sum.value(),
                first: first.value(),
                second: second.value(),
            });
        }
        Line { points, prefixes }
    }

    /// The cost of the interval between two prefixes.
    #[inline(always)]
    fn cost(begin: &Prefix, end: &Prefix) -> f64 {
        let first = end.first - begin.first;
        let cost = (end.second - begin.second) - first * first / (end.weight - begin.weight);
        cost.max(0.0)
    }

    /// Bounds of the `k` intervals that cost least; `k` is less than the number of points.
    fn intervals(&self, k: usize) -> Vec<usize> {
        let n = self.points.len();
        let (_, whole) = moments(&self.points);
        let mut fewer = Path { bounds: vec![0, n], cost: whole, price: f64::INFINITY };
        let mut more = Path { bounds: (0..=n).collect(), cost: 0.0, price: 0.0 };
        if fewer.count() == k {
            return fewer.bounds;
        }
        let mut scratch = Scratch::new(n);
        // f(k) ~ c * f(1) / k^2 with c = 1 for a flat density, 2.7 for a normal one (Panter & Dite 1951).
        let mut guess = 4.0 * whole / (k as f64).powi(3);
        for round in 0.. {
            let chord = (fewer.cost - more.cost) / (more.count() - fewer.count()) as f64;
            let inside = guess > more.price && guess < fewer.price;
            let by_chord = !inside || round % 3 == 2;
            let path = self.cheapest(if by_chord { chord } else { guess }, &mut scratch);
            let count = path.count();
            if count == k {
                return path.bounds;
            }
            // No count between the two is cheaper at the price at which they tie: both are optimal there.
            if by_chord && (count <= fewer.count() || count >= more.count()) {
                break;
            }
            guess = path.price * (count as f64 / k as f64).powi(3);
            if count < k && count >= fewer.count() {
                fewer = path;
            } else if count > k && count <= more.count() {
                more = path;
            }
            if round >= 3 {
                guess = between(&fewer, &more, k).unwrap_or(guess);
            }
        }
        cross(&fewer.bounds, &more.bounds, k)
    }

    /// The intervals with the least `cost + price * count`.
    fn cheapest(&self, price: f64, scratch: &mut Scratch) -> Path {
        let n = self.points.len();
        let Scratch { best, choice, queue } = scratch;
        queue.clear();
        queue.push(Candidate { begin: 0, from: 1 });
        let mut front = 0;
        best[0] = 0.0;
        for end in 1..=n {
            while queue.get(front + 1).is_some_and(|next| next.from <= end) {
                front += 1;
            }
            let begin = queue[front].begin;
            best[end] = best[begin] + Self::cost(&self.prefixes[begin], &self.prefixes[end]) + price;
            choice[end] = begin;
            if end < n {
                self.enter(end, front, best, queue);
            }
        }
        let mut bounds = vec![n];
        let mut end = n;
        while end > 0 {
            end = choice[end];
            bounds.push(end);
        }
        bounds.reverse();
        let cost = bounds.windows(2).map(|pair| moments(&self.points[pair[0]..pair[1]]).1).sum();
        Path { bounds, cost, price }
    }

    /// Puts the candidate `begin` into the queue: those that it beats for all of their ends leave, and it takes over
    /// from the first end at which it is better, if any.
    #[inline(always)]
    fn enter(&self, begin: usize, front: usize, best: &[f64], queue: &mut Vec<Candidate>) {
        let n = self.points.len();
        let mine = (best[begin], self.prefixes[begin]);
        let wins = |other: usize, end: usize| {
            let theirs = best[other] + Self::cost(&self.prefixes[other], &self.prefixes[end]);
            mine.0 + Self::cost(&mine.1, &self.prefixes[end]) < theirs
        };
        while queue.len() > front + 1 {
            let last = queue[queue.len() - 1];
            if last.from <= begin || !wins(last.begin, last.from) {
                break;
            }
            queue.pop();
        }
        let last = queue[queue.len() - 1];
        if !wins(last.begin, n) {
            return;
        }
        // It loses at `low` or that is no end of its own, and wins at `high`. Strides double from the near side: starts
        // are about as dense as ends.
        let (mut low, mut high, mut stride) = (last.from.max(begin), n, 1);
        while low + stride < high {
            if wins(last.begin, low + stride) {
                high = low + stride;
            } else {
                low += stride;
                stride *= 2;
            }
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if wins(last.begin, middle) {
                high = middle;
            } else {
                low = middle;
            }
        }
        queue.push(Candidate { begin, from: high });
    }
}

/// Buffers of [`Line::cheapest`].
struct Scratch {
    best: Vec<f64>,
    choice: Vec<usize>,
    queue: Vec<Candidate>,
}

impl Scratch {
    fn new(n: usize) -> Self {
        Scratch { best: vec![0.0; n + 1], choice: vec![0; n + 1], queue: Vec::with_capacity(n + 1) }
    }
}

/// A price at which about `k` intervals are best, if both paths were found by one: price over count is near a power
/// law.
fn between(fewer: &Path, more: &Path, k: usize) -> Option<f64> {
    if !fewer.price.is_finite() || more.price <= 0.0 {
        return None;
    }
    let (low, high) = ((fewer.count() as f64).ln(), (more.count() as f64).ln());
    let part = ((k as f64).ln() - low) / (high - low);
    Some((fewer.price.ln() * (1.0 - part) + more.price.ln() * part).exp())
}

/// Crosses two optimal paths, of fewer and more than `k` intervals, into one of `k`: the first up to where one of its
/// intervals `[a, d)` holds an interval `[b, c)` of the second that is `s = more - k` ahead in number, then `[a, c)`,
/// then the second. By the Monge property it and the other crossing together cost no more than the two paths.
fn cross(fewer: &[usize], more: &[usize], k: usize) -> Vec<usize> {
    let ahead = more.len() - 1 - k;
    let mut at = 0;
    // Ends at the latest before fewer's last bound n, as more[ahead + its index] < n.
    while at + 1 < fewer.len() && fewer[at + 1] <= more[at + 1 + ahead] {
        at += 1;
    }
    let mut bounds = fewer[..=at].to_vec();
    bounds.extend_from_slice(&more[at + 1 + ahead..]);
    bounds
}

/// A sum with the error of each addition carried along (Neumaier 1974).
#[derive(Default)]
struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
    }

    fn value(&self) -> f64 {
        self.sum + self.lost
    }
}
