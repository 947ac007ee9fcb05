"""Time that jumps: an event loop on which nothing waits, and processes that can be killed on it.

When nothing is ready the clock moves to the next timer at once, so ten minutes take as long as the
work in them. The wall clock of a story derives from it and starts at a fixed instant.
"""

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context, ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = datetime(2026, 1, 1, tzinfo=UTC)
# Callbacks in a row without time passing: a busy pass makes some thousands, a spinning task no end.
STANDSTILL = 500_000


class Deadlock(RuntimeError):
    """Nothing can happen any more: no task is ready and no timer is set, or time does not pass."""


class _Jump(selectors.BaseSelector):
    """A selector that moves the loop's clock on instead of waiting.

    Real sockets keep working (the self-pipe is one); only when there are no timers does it wait for
    them, and never for nothing.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._turns = 0
        self._real = selectors.DefaultSelector()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = self._real.select(0)
        if events or timeout == 0:
            self._turns += 1
            if self._turns > STANDSTILL:
                self._turns = 0
                raise Deadlock(f"time does not pass at {self.now:.3f} s: {_waiting()}")
            return events
        self._turns = 0
        if timeout is not None:
            self.now += max(timeout, 0.0)
            return []
        if len(self.get_map()) > 1:
            return self._real.select(None)
        raise Deadlock(f"nothing can happen after {self.now:.3f} s: {_waiting()}")

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()


def _waiting() -> str:
    """The tasks that wait, by name."""
    names = sorted(task.get_name() for task in asyncio.all_tasks(asyncio.get_event_loop()))
    return ", ".join(names[:20]) or "no task is left"


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, beginning at 0 s; `now` is its wall clock."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._clock_resolution = 1e-9  # floats of some hours are exact to 1e-12; 1 ns keeps order

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now

    def now(self) -> datetime:
        """The virtual wall clock, aware UTC."""
        return START + timedelta(seconds=self._jump.now)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """Calls back in the next turn, or when the process it belongs to runs again."""
        process = context.get(_process) if context is not None else _process.get()
        if process is None:
            return super().call_soon(callback, *args, context=context)
        step = _Step(process, callback, args, context or copy_context())
        step.handle = super().call_soon(step, context=step.context)
        return step.handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Calls back at `when`, or later, when the process it belongs to runs again."""
        process = context.get(_process) if context is not None else _process.get()
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        step = _Step(process, callback, args, context or copy_context())
        step.handle = timer = super().call_at(when, step, context=step.context)
        return timer

    def create_task(
        self, coro: Any, *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Starts a task; the process that it belongs to knows it."""
        task = super().create_task(coro, name=name, context=context)
        process = context.get(_process) if context is not None else _process.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda over: process.tasks.pop(over, None))
        return task

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """Runs it here and now: a thread would live in another time."""
        del executor
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as trouble:  # noqa: BLE001 (whatever it is, it belongs to the caller)
            done.set_exception(trouble)
        return done


class _Step:
    """One callback of a process, put off while the process is stopped."""

    __slots__ = ("_args", "_callback", "_process", "context", "handle")

    def __init__(
        self,
        process: "Process",
        callback: Callable[..., Any],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self._process = process
        self._callback = callback
        self._args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self._process.stopped:
            self._process.parked.append(self)
        elif self.handle is not None and not self.handle.cancelled():  # it may have been while parked
            self._callback(*self._args)


class Process:
    """Tasks that stop together between two of their steps, as SIGSTOP and SIGKILL stop a process.

    Whatever such a task starts belongs to the process too. A killed process runs nothing any more, no
    `finally` either, until `bury` clears it away.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self.parked: list[_Step] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}  # in the order in which they were started
        self.main: asyncio.Task[Any] | None = None

    @property
    def trouble(self) -> BaseException | None:
        """What its main task ended from; None if it has not, or came to its end."""
        main = self.main
        return None if main is None or not main.done() or main.cancelled() else main.exception()

    def start(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The process' main task."""
        context = copy_context()
        context.run(_process.set, self)
        main = asyncio.get_running_loop().create_task(coro, name=self.name, context=context)
        self.main = main
        return main

    def freeze(self) -> None:
        """Nothing of it runs from now on; time passes."""
        self.stopped = True

    kill = freeze  # for good: nobody thaws it

    def thaw(self) -> None:
        """It goes on with everything that came due meanwhile, in that order."""
        self.stopped = False
        parked, self.parked = self.parked, []
        for step in parked:
            asyncio.get_running_loop().call_soon(step, context=step.context)

    async def bury(self) -> None:
        """Its tasks are cancelled and gone, and so are those that they start in their last steps."""
        while self.tasks:
            tasks = list(self.tasks)
            for task in tasks:
                task.cancel()
            self.thaw()
            await asyncio.gather(*tasks, return_exceptions=True)


_process: ContextVar[Process | None] = ContextVar("process", default=None)


def run_virtual(coro: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns, run to its end on a virtual loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coro)


def virtual_loop() -> VirtualLoop:
    """The running loop, which is a virtual one."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, VirtualLoop):
        raise TypeError(f"needs run_virtual; the running loop is a {type(loop).__name__}")
    return loop
