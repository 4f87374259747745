// The words for what went wrong.
#pragma once

#include <string>

#include "scheduler.h"

namespace fusedrnn::cuda::emulation {

std::string describe(const Location& where);  // "kernels.cu:12"
std::string describe(const Thread& thread);   // "block (0, 0, 0) thread (5, 0, 0)"
std::string describe(const LaunchInfo& info);
bool same_place(const Location& a, const Location& b);

// Where all threads that have not left stand, one line for each place.
std::string describe_waiting(Launch& launch);

}  // namespace fusedrnn::cuda::emulation
