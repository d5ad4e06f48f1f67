// Times exact_transport and sinkhorn on a square matrix of doubles: transport_speed N exact|sinkhorn COST.bin
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>

#include "analysis/align/transport.h"

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const std::int64_t n = std::stoll(argv[1]);
  const std::string solver = argv[2];
  onnxfold::Matrix cost(n, n);
  std::ifstream file(argv[3], std::ios::binary);
  file.read(reinterpret_cast<char*>(cost.data.data()), static_cast<std::streamsize>(cost.data.size() * sizeof(double)));
  if (!file) return 2;
  const auto start = std::chrono::steady_clock::now();
  const std::clock_t work = std::clock();
  const auto plan = solver == "exact" ? onnxfold::exact_transport(cost) : onnxfold::sinkhorn(cost, {});
  if (!plan) return 1;
  const double cpu = static_cast<double>(std::clock() - work) / CLOCKS_PER_SEC;
  const double wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("%.4f %.4f %.8f\n", wall, cpu, onnxfold::transport_cost(*plan, cost));
}
