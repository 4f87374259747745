#include "race_checker.h"

#include <algorithm>

namespace fusedrnn::cuda::emulation {

namespace {

Deed deed_of(const Write& write) {
  return write.time == Write::kUnderWay ? Deed::copies : Deed::wrote;
}
Deed deed_of(const Uses& uses) { return uses.kind() == Uses::read ? Deed::read : Deed::atomic; }

std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

Spot spot(const Region& region, std::size_t offset) {
  return {region.space, region.block, offset, region.bytes()};
}

}  // namespace

void RaceChecker::launch_begins(const LaunchInfo& info) {
  clocks_.start(static_cast<unsigned>(info.blocks()), info.threads_per_block(), info.cluster);
  findings_.start(info.threads_per_block());
  cluster_ = info.cluster;
}

void RaceChecker::launch_ends() {
  memory_.remove_if([](const Region& region) { return region.space == Space::shared; });
  memory_.each([](Region& region) { region.forget_accesses(); });
  if (findings_.races() + findings_.uninitialised_reads() != 0) report_(findings_);
}

void RaceChecker::allocated(const void* p, std::size_t bytes, Space space, unsigned block) {
  if (bytes != 0) memory_.add(address(p), bytes, space, block);
}

void RaceChecker::freed(const void* p) {
  Region* region = memory_.find(p);
  if (region == nullptr) return;
  if (region->space == Space::global) return memory_.remove(region->begin);
  if (cluster_ > 1) check_end(*region);
  region->gone = true;
}

void RaceChecker::host_wrote(const void* p, std::size_t bytes) {
  Region* region = memory_.find(p);
  if (region == nullptr) return;
  const std::size_t offset = address(p) - region->begin;
  region->mark_written(offset, std::min(bytes, region->bytes() - offset));
}

template <class Do>
void RaceChecker::with_event(unsigned thread, const void* p, std::size_t bytes, Deed deed,
                             const void* pc, Do act) {
  Region* region = memory_.find(p);
  if (region == nullptr) return;  // a local variable
  ++accesses_;
  const std::size_t offset = address(p) - region->begin;
  const PlaceId place = places_.id(pc);
  const Uses use(clocks_.warp(thread), clocks_.now(thread),
                 deed == Deed::atomic ? Uses::atomic : Uses::read,
                 1u << clocks_.thread_in_block(thread) % 32, place);
  const Event event{
      *region, offset, std::min(bytes, region->bytes() - offset), use, {thread, deed, place}};
  if (region->gone) return findings_.ended(spot(*region, offset), event.party, accesses_);
  act(event);
}

void RaceChecker::access(unsigned thread, const void* p, unsigned bytes, Access kind,
                         const void* pc) {
  switch (kind) {
    case Access::read:
      return with_event(thread, p, bytes, Deed::read, pc, [&](const Event& e) { use(e); });
    case Access::write:
      return with_event(thread, p, bytes, Deed::wrote, pc,
                        [&](const Event& e) { write(e, e.use.time()); });
    case Access::atomic:
      return with_event(thread, p, bytes, Deed::atomic, pc, [&](const Event& e) { use(e); });
  }
}

void RaceChecker::copy_begins(unsigned thread, const void* shared, unsigned bytes, const void* pc) {
  with_event(thread, shared, bytes, Deed::copies, pc,
             [&](const Event& e) { write(e, Write::kUnderWay); });
}

// Whoever came between was found then; so nothing to check.
void RaceChecker::copy_ends(unsigned thread, const void* shared, unsigned bytes, const void* pc) {
  with_event(thread, shared, bytes, Deed::wrote, pc, [&](const Event& e) {
    e.region.visit_cells(e.offset, e.bytes, [&](Cell& cell, std::size_t) {
      cell.write = {thread, e.use.time(), e.party.place};
    });
  });
}

void RaceChecker::use(const Event& event) {
  if (!event.region.all_written(event.offset, event.bytes))
    findings_.uninitialised(spot(event.region, event.offset), event.party, accesses_);
  const Uses::Kind kind = event.use.kind();
  event.region.visit_cells(event.offset, event.bytes, [&](Cell& cell, std::size_t offset) {
    Uses* same = cell.find(event.use.moment);
    if (same != nullptr && (same->lanes & event.use.lanes) != 0) return;  // nothing new
    check_write(event, cell, offset);
    if (kind == Uses::atomic) check_uses(event, cell, offset, Uses::read);
    if (kind == Uses::read && cell.has_atomics) check_uses(event, cell, offset, Uses::atomic);
    if (same != nullptr) {
      same->lanes |= event.use.lanes;
      return;
    }
    cell.add(event.use, [&](const Uses& other) {
      return other.kind() == kind && knows(event.party.thread, other);
    });
  });
  if (kind == Uses::atomic) event.region.mark_written(event.offset, event.bytes);
}

void RaceChecker::write(const Event& event, Time time) {
  event.region.visit_cells(event.offset, event.bytes, [&](Cell& cell, std::size_t offset) {
    check_write(event, cell, offset);
    check_uses(event, cell, offset, Uses::read);
    if (cell.has_atomics) {
      check_uses(event, cell, offset, Uses::atomic);
      clocks_.flag_overwritten(reinterpret_cast<const void*>(event.region.begin + offset));
    }
    cell.clear_uses();
    cell.write = {event.party.thread, time, event.party.place};
  });
  event.region.mark_written(event.offset, event.bytes);
}

void RaceChecker::check_write(const Event& event, const Cell& cell, std::size_t offset) {
  const Write& write = cell.write;
  if (write.time == 0) return;
  if (write.time == Write::kUnderWay ||
      !clocks_.knows(event.party.thread, write.thread, write.time))
    findings_.race(spot(event.region, offset), {write.thread, deed_of(write), write.place},
                   event.party, accesses_);
}

bool RaceChecker::knows(unsigned thread, const Uses& uses) const {
  return clocks_.unknown(thread, uses.warp(), uses.lanes, uses.time()) == 0;
}

void RaceChecker::check_uses(const Event& event, const Cell& cell, std::size_t offset,
                             Uses::Kind kind) {
  for (const Uses& uses : cell.uses()) {
    if (uses.kind() != kind) continue;
    const std::uint32_t lanes =
        clocks_.unknown(event.party.thread, uses.warp(), uses.lanes, uses.time());
    if (lanes == 0) continue;
    const Party other{clocks_.first_thread(uses.warp(), lanes), deed_of(uses), uses.place};
    findings_.race(spot(event.region, offset), other, event.party, accesses_);
  }
}

// An access by another block must be known to some thread of this one before all have left.
void RaceChecker::check_end(Region& region) {
  const ClockPointer known = clocks_.knowledge_of_block(region.block);
  region.visit_touched([&](Cell& cell, std::size_t offset) {
    ++accesses_;
    const auto check = [&](unsigned thread, Time time, Deed deed, PlaceId place) {
      if (time != 0 && clocks_.block(thread) != region.block && !clocks_.known(known, thread, time))
        findings_.ended(spot(region, offset), {thread, deed, place}, accesses_);
    };
    check(cell.write.thread, cell.write.time, deed_of(cell.write), cell.write.place);
    for (const Uses& uses : cell.uses())
      for (std::uint32_t lanes = uses.lanes; lanes != 0; lanes &= lanes - 1)
        check(clocks_.first_thread(uses.warp(), lanes), uses.time(), deed_of(uses), uses.place);
  });
}

Observer& race_checker() {
  static RaceChecker checker([](const Findings& findings) {
    tally().races += findings.races();
    tally().uninitialised += findings.uninitialised_reads();
    report_fault(findings.text());
  });
  return checker;
}

}  // namespace fusedrnn::cuda::emulation
