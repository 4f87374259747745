// The threads of an OpenMP runtime that another library, such as torch, has in this process.
//
// After each of its parallel regions such a runtime keeps its threads spinning for milliseconds
// (libgomp: 300,000 pauses of 10 to 140 cycles). Threads of ours beside them get half a CPU. So
// where there is such a runtime, our teams run on its threads: those spin for us, then.
#pragma once

namespace fusedrnn {

// Its functions, as GCC's compiled code calls them. LLVM's and Intel's runtimes have them, too.
struct OpenMP {
  // Runs body(context) on a team of this many threads, the caller among them, or of fewer.
  void (*parallel)(void (*body)(void*), void* context, unsigned threads, unsigned flags);
  int (*thread_num)();   // the caller's number in its team; the one who called parallel() has 0
  int (*num_threads)();  // how many the team has
  int (*max_threads)();  // how many a team of the library's has in this thread
};

// The runtime that `library`, which must be loaded already, is linked with. All null where there is
// none, or not with these functions. torch tells the runtime its number (torch.set_num_threads)
// thread by thread, when it first computes there: so where the library has torch's function
// at::get_num_threads(), that is asked.
OpenMP find_openmp(const char* library);

}  // namespace fusedrnn
