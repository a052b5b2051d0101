// libcurand: candle makes a generator with every device. Nothing here draws from it: candlelight's random numbers are its own.
extern "C" {
int curandCreateGenerator(void** g, int) { return *g = new char, 0; }
int curandDestroyGenerator(void* g) { return delete (char*)g, 0; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
int curandSetStream(void*, void*) { return 0; }
}
