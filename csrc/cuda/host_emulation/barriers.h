// Where threads meet: in a warp, a block, a cluster. A thread that has left is not waited for.
#pragma once

#include "scheduler.h"

namespace fusedrnn::cuda::emulation {

void meet_block(const Location& where);

// All live lanes of `mask` come with the same mask, at the same line; `resolve` then sees the
// operands of all. Says nothing about the order of memory: meet_warp_in_order() does.
void meet_warp(unsigned mask, const char* doing, const Location& where, void* operand,
               void (*resolve)(const WarpMeeting&));
void meet_warp_in_order(unsigned mask, const char* doing, const Location& where);

void arrive_at_cluster(const Location& where);
void wait_for_cluster(const Location& where);

// The running thread is about to end.
void leave();

}  // namespace fusedrnn::cuda::emulation
