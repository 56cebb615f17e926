//! Places for values of which each lives for a time: shared by those that do not live at once, largest first (greedy by size for shared
//! objects, with the gaps of its improved form: Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", arXiv 2001.03288).

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// How long a value of `count` numbers lives: from one event to another, both its own.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// Its numbers.
    pub count: usize,
    /// The event that makes it.
    pub from: usize,
    /// The event that it ends with.
    pub to: usize,
}

/// A place for each value, and the numbers of each place. No two values that live at once have the same.
pub fn plan(values: &[Lifetime]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&value| (Reverse(values[value].count), value));
    let mut places: Vec<Place> = Vec::new();
    let mut place_of = vec![0; values.len()];
    for value in order {
        let lifetime = values[value];
        // All are large enough: they were made for larger values. The one that is idle for the shortest time leaves the most to the others.
        let idle = |place: &usize| places[*place].idle(lifetime);
        let free = (0..places.len()).filter(|place| idle(place).is_some()).min_by_key(idle);
        let place = free.unwrap_or_else(|| {
            places.push(Place { count: lifetime.count, taken: BTreeMap::new() });
            places.len() - 1
        });
        places[place].taken.insert(lifetime.from, lifetime.to);
        place_of[value] = place;
    }
    (place_of, places.into_iter().map(|place| place.count).collect())
}

/// The most numbers that live at once.
pub fn most(values: &[Lifetime]) -> usize {
    let starts = values.iter().map(|value| (value.from, true, value.count));
    let mut events: Vec<_> =
        starts.chain(values.iter().map(|value| (value.to, false, value.count))).collect();
    events.sort_unstable();
    let mut live = 0;
    let mut most = 0;
    for (_, starts, count) in events {
        live = if starts { live + count } else { live - count };
        most = most.max(live);
    }
    most
}

/// Numbers of memory, and the values that are there one after the other: when each begins and ends.
struct Place {
    count: usize,
    taken: BTreeMap<usize, usize>,
}

impl Place {
    /// Where nothing else is there at that time: the events until something is, before or behind, whichever are fewer.
    fn idle(&self, value: Lifetime) -> Option<usize> {
        let before = self.taken.range(..=value.to).next_back().map(|(_, &end)| end);
        if before.is_some_and(|end| end >= value.from) {
            return None;
        }
        let behind = self.taken.range(value.to..).next().map(|(&start, _)| start - value.to);
        before.map(|end| value.from - end).into_iter().chain(behind).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of many sizes and lifetimes, those of few events long.
    fn values() -> Vec<Lifetime> {
        let of = |at: usize, seed: usize| (at * 7919 + seed * 104_729) % 1009;
        let value = |at| Lifetime { count: 1 + of(at, 1), from: 3 * at, to: 3 * at + 1 + of(at, 2) % 40 };
        (0..400).map(value).collect()
    }

    #[test]
    fn no_two_that_live_at_once_share_a_place() {
        let values = values();
        let (places, sizes) = plan(&values);
        for (number, (a, place)) in values.iter().zip(&places).enumerate() {
            assert!(a.count <= sizes[*place]);
            for (b, other) in values.iter().zip(&places).skip(number + 1) {
                assert!(place != other || a.to < b.from || b.to < a.from);
            }
        }
        // Whole places cannot do with less than this: of all events the largest value, of all the second largest, and so on.
        let ends = values.iter().map(|value| value.to);
        let mut needed: Vec<usize> = Vec::new();
        for event in values.iter().map(|value| value.from).chain(ends) {
            let lives = values.iter().filter(|value| (value.from..=value.to).contains(&event));
            let mut live: Vec<usize> = lives.map(|value| value.count).collect();
            live.sort_unstable_by_key(|&count| Reverse(count));
            needed.resize(needed.len().max(live.len()), 0);
            needed.iter_mut().zip(live).for_each(|(needed, count)| *needed = count.max(*needed));
        }
        let (held, needed) = (sizes.iter().sum::<usize>(), needed.iter().sum::<usize>());
        assert!(needed >= most(&values) && (needed..=needed * 9 / 8).contains(&held), "{held}, {needed}");
    }

    #[test]
    fn a_value_that_never_ends_keeps_its_place() {
        let values = [(9, 0, usize::MAX), (5, 1, 2), (4, 3, 4)];
        let (places, sizes) = plan(&values.map(|(count, from, to)| Lifetime { count, from, to }));
        assert_eq!((places, sizes), (vec![0, 1, 1], vec![9, 5]));
    }
}
