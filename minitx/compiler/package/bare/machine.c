/* A Cortex-M from its reset on, which talks to the debugger or to qemu by semihosting. */
#include "machine.h"

#include <stdint.h>

int main(void);
void machine_reset(void);
void machine_start(void);

/* Of the linker's script. */
extern uint32_t machine_stack_low[], machine_stack_high[], machine_data[], machine_data_end[], machine_zeros[],
    machine_zeros_end[];
extern const uint32_t machine_data_source[];

enum { WRITE0 = 0x04, GET_COMMAND_LINE = 0x15, EXIT_EXTENDED = 0x20, STOPPED = 0x20026 };
static const uint32_t PAINT = 0xA5C35A3Cu;

static uintptr_t semihosting(uintptr_t operation, const void *parameter) {
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = parameter;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void machine_exit(int status) {
    const uintptr_t parameter[] = {STOPPED, (uintptr_t)status};
    for (;;) semihosting(EXIT_EXTENDED, parameter);
}

static void fault(void) {
    machine_write("fault\n");
    machine_exit(1);
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))machine_stack_high, machine_reset, fault, fault, fault, fault, fault};

/* Lets the program use the floating point unit, before any compiled code does. */
__attribute__((naked)) void machine_reset(void) {
    __asm__ volatile("ldr r0, =0xE000ED88\n ldr r1, [r0]\n orr r1, r1, #0xF00000\n str r1, [r0]\n dsb\n isb\n"
                     "b machine_start\n.ltorg");
}

void machine_start(void) {
    const volatile uint32_t *source = machine_data_source;
    for (volatile uint32_t *at = machine_data; at < machine_data_end; at++) *at = *source++;
    for (volatile uint32_t *at = machine_zeros; at < machine_zeros_end; at++) *at = 0;
    uint32_t *here = (uint32_t *)__builtin_frame_address(0) - 64;
    for (volatile uint32_t *at = machine_stack_low; at < here; at++) *at = PAINT;
    machine_exit(main());
}

size_t machine_stack(void) {
    const volatile uint32_t *at = machine_stack_low;
    while (at < machine_stack_high && *at == PAINT) at++;
    return (size_t)((uintptr_t)machine_stack_high - (uintptr_t)at);
}

void machine_write(const char *text) { semihosting(WRITE0, text); }

int machine_arguments(char *text, size_t capacity) {
    uintptr_t parameter[] = {(uintptr_t)text, capacity};
    return semihosting(GET_COMMAND_LINE, parameter) == 0;
}
