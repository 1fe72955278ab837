//! What guests ask, what they are told, and what the oracle remembers of it.

use super::*;

impl World {
    // ---- the guest ----

    pub(super) fn guest_asks(&mut self) {
        let disk = self.rng.index(self.disks.len());
        let token = self.next_token;
        self.next_token += 1;
        if self.rng.chance(90) {
            let flush = GuestFlush { disk, vouches: self.acked[disk].clone() };
            self.flushes.insert(token, flush);
            self.note(9, || format!("guest: flush {token} of disk {disk}"));
            return self.drive(|group, now, actions| {
                group.flush(DiskIndex(disk as u16), Token(token), now, actions)
            });
        }
        let sectors = self.disks[disk].borrow().sectors();
        let (change, longest) = match self.rng.below(100) {
            0..=78 => (Change::Write, if self.rng.chance(150) { 64 } else { 16 }),
            79..=88 => (Change::Zero { may_punch: self.rng.chance(500) }, 64),
            _ => (Change::Discard, 64),
        };
        let longest = if change != Change::Write && self.rng.chance(250) { 700 } else { longest };
        let start = if self.rng.chance(600) {
            self.rng.index((self.settings.hot as usize * 8).min(sectors))
        } else {
            self.rng.index(sectors)
        };
        let mut range = start..(start + 1 + self.rng.index(longest)).min(sectors);
        if self.rng.chance(400) {
            range = range.start / 8 * 8..range.end.next_multiple_of(8).min(sectors);
        }
        let fua = self.rng.chance(100);
        let request = Request {
            disk: DiskIndex(disk as u16),
            change,
            fua,
            offset: range.start as u64 * SECTOR,
            length: range.len() as u64 * SECTOR,
            token: Token(token),
        };
        let guest = GuestRequest {
            disk,
            change,
            fua,
            range: range.clone(),
            submitted: 0,
            id: None,
            forgotten: false,
        };
        self.requests.insert(token, guest);
        self.note(10, || format!("guest: {token} {change:?} disk {disk} sectors {range:?} fua {fua}"));
        let mut given = None;
        self.drive(|group, now, actions| given = Some(group.request(request, now, actions)));
        if let Some(guest) = self.requests.get_mut(&token) {
            guest.id = given;
        }
    }

    /// A connection dies (W8).
    pub(super) fn abandon(&mut self) {
        if self.requests.is_empty() || !self.rng.chance(300) {
            return;
        }
        let at = self.rng.index(self.requests.len());
        let (token, request) = self.requests.iter_mut().nth(at).expect("below the count");
        let (token, Some(id), false) = (*token, request.id, request.forgotten) else { return };
        request.forgotten = true;
        self.note(11, || format!("guest: {token} is abandoned"));
        let mut gone = false;
        self.drive(|group, now, actions| gone = group.abandon(id, now, actions));
        self.counts.add("abandoned requests");
        if gone {
            self.requests.remove(&token);
        }
    }

    pub(super) fn reply(&mut self, token: u64, result: Result<(), Errno>) {
        self.note(12, || format!("reply {token}: {result:?}"));
        if let Some(flush) = self.flushes.remove(&token) {
            let disk = flush.disk;
            if result.is_err() {
                // The guest is told: what it wrote before is in doubt.
                self.acked[disk].clear();
                self.counts.add("flushes that failed");
                self.flushes
                    .values_mut()
                    .filter(|other| other.disk == disk)
                    .for_each(|other| other.vouches.clear());
                return;
            }
            let cache = self.disks[disk].borrow();
            for (sector, seq) in flush.vouches {
                if cache.durable(sector) < seq {
                    let what =
                        format!("flush {token} was good, but sector {sector} of disk {disk} is not durable");
                    self.wrong.get_or_insert(what);
                }
                if self.acked[disk].get(&sector).is_some_and(|newest| *newest <= seq) {
                    self.acked[disk].remove(&sector);
                }
            }
            return;
        }
        let Some(request) = self.requests.remove(&token) else {
            self.wrong.get_or_insert(format!("a reply to {token}, which nobody awaits"));
            return;
        };
        if request.forgotten {
            return;
        }
        if result.is_err() {
            self.counts.add("requests that failed");
            if request.fua {
                self.acked[request.disk].clear();
                let same = |flush: &&mut GuestFlush| flush.disk == request.disk;
                self.flushes.values_mut().filter(same).for_each(|flush| flush.vouches.clear());
            }
            return;
        }
        self.counts.add("requests");
        if request.change != Change::Discard && request.submitted != request.range.len() {
            self.wrong.get_or_insert(format!("{token} was acknowledged and not written whole"));
        }
        if request.submitted != request.range.len() {
            // A discard that left some as they were (W3): of those it promises nothing.
            return;
        }
        let cache = self.disks[request.disk].borrow();
        for sector in request.range {
            if request.fua
                && request.change != Change::Discard
                && cache.durable(sector) < cache.newest(sector)
            {
                // Another write may be over it by now; only its own value counts.
                continue;
            }
            self.acked[request.disk].insert(sector, cache.newest(sector));
        }
    }
}
