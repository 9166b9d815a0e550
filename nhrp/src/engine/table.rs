//! A hash map whose entries lie side by side: what is not in use of it costs five bytes a place, not a whole entry.
//!
//! A hub holds one entry a spoke in several tables, and a hash table is a third to two thirds empty.

use std::hash::{BuildHasher as _, Hash};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use rustc_hash::FxBuildHasher;

/// From key to value. The seed is fixed: the same inputs give the same order.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    /// Where in `entries` a key is.
    places: HashTable<u32>,
    entries: Vec<(K, V)>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { places: HashTable::new(), entries: Vec::new() }
    }
}

fn hash<K: Hash>(key: &K) -> u64 {
    FxBuildHasher.hash_one(key)
}

impl<K: Hash + Eq, V> Table<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn place(&self, key: &K) -> Option<usize> {
        let is_it = |place: &u32| self.entries.get(*place as usize).is_some_and(|(it, _)| it == key);
        self.places.find(hash(key), is_it).map(|place| *place as usize)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(self.place(key)?).map(|(_, value)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let place = self.place(key)?;
        self.entries.get_mut(place).map(|(_, value)| value)
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.place(key).is_some()
    }

    /// Puts it in; gives what was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(old) = self.get_mut(&key) {
            return Some(std::mem::replace(old, value));
        }
        let entries = &self.entries;
        let place = entries.len() as u32;
        self.places.insert_unique(hash(&key), place, |place| hash_at(entries, *place));
        self.entries.push((key, value));
        None
    }

    /// The value of `key`, made if it is not there.
    pub(crate) fn get_or_insert_with(&mut self, key: K, value: impl FnOnce() -> V) -> &mut V {
        let place = match self.place(&key) {
            Some(place) => place,
            None => {
                self.insert(key, value());
                self.entries.len() - 1
            }
        };
        &mut self.entries[place].1
    }

    /// Takes it out; the last entry gets its place.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let entries = &self.entries;
        let is_it = |place: &u32| entries.get(*place as usize).is_some_and(|(it, _)| it == key);
        let Entry::Occupied(found) = self.places.entry(hash(key), is_it, |place| hash_at(entries, *place))
        else {
            return None;
        };
        let place = found.remove().0;
        let last = self.entries.len() as u32 - 1;
        let moved = hash_at(&self.entries, last);
        if let Some(it) = self.places.find_mut(moved, |it| *it == last) {
            *it = place;
        }
        let (_, value) = self.entries.swap_remove(place as usize);
        self.give_back();
        Some(value)
    }

    /// Keeps those that `keep` says.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        let before = self.entries.len();
        self.entries.retain_mut(|(key, value)| keep(key, value));
        if self.entries.len() == before {
            return;
        }
        self.places.clear();
        let entries = &self.entries;
        for (place, (key, _)) in entries.iter().enumerate() {
            self.places.insert_unique(hash(key), place as u32, |place| hash_at(entries, *place));
        }
        self.give_back();
    }

    /// What was needed once need not be held for ever.
    fn give_back(&mut self) {
        if self.entries.capacity() > 8 * (self.entries.len() + 64) {
            let entries = &mut self.entries;
            entries.shrink_to(2 * entries.len());
            let entries = &self.entries;
            self.places.shrink_to(2 * entries.len(), |place| hash_at(entries, *place));
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.entries.iter().map(|(_, value)| value)
    }
}

fn hash_at<K: Hash, V>(entries: &[(K, V)], place: u32) -> u64 {
    entries.get(place as usize).map_or(0, |(key, _)| hash(key))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The same as a map of the standard library, whatever is done to it.
    #[test]
    fn it_is_a_map() {
        let mut table: Table<u32, u32> = Table::default();
        let mut map = BTreeMap::new();
        let mut rng = crate::engine::rng::Rng::new(7);
        for step in 0..200_000_u32 {
            // Grows, shrinks to nearly nothing, grows again.
            let key = rng.next() as u32 % if step % 80_000 < 40_000 { 5000 } else { 50 };
            match rng.next() % 8 {
                0..=2 => assert_eq!(table.insert(key, step), map.insert(key, step)),
                3 => assert_eq!(*table.get_or_insert_with(key, || step), *map.entry(key).or_insert(step)),
                4 => {
                    if let Some(value) = table.get_mut(&key) {
                        *value += 1;
                    }
                    map.entry(key).and_modify(|value| *value += 1);
                }
                5 | 6 if step % 80_000 >= 40_000 => {
                    let key = map.keys().next_back().copied().unwrap_or(key);
                    assert_eq!(table.remove(&key), map.remove(&key));
                }
                5 | 6 => assert_eq!(table.remove(&key), map.remove(&key)),
                _ if step % 1000 == 0 => {
                    table.retain(|key, value| (*key + *value) % 3 > 0);
                    map.retain(|key, value| (*key + *value) % 3 > 0);
                }
                _ => assert_eq!(table.get(&key), map.get(&key)),
            }
            assert_eq!(table.len(), map.len());
            assert_eq!(table.contains_key(&key), map.contains_key(&key));
        }
        let mut all: Vec<_> = table.iter().map(|(key, value)| (*key, *value)).collect();
        all.sort_unstable();
        assert_eq!(all, map.into_iter().collect::<Vec<_>>());
        table.retain(|_, _| false);
        assert!(table.is_empty() && table.entries.capacity() < 1024 && table.places.capacity() < 1024);
    }
}
