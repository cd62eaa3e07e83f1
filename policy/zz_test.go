package policy
import ("testing";"fmt";"context";"time"
"github.com/chartergate/chartergate/core/charter")
func BenchmarkZBig(b *testing.B){
 for _,n:=range []int{10,100,1000}{ for _,asked:=range []string{"","m5"}{ b.Run(fmt.Sprint(n,asked),func(b *testing.B){
 d:=decider(b,Builtin()); in:=supportInput(b)
 c:=&charter.Catalog{Tiers:in.Catalog.Tiers}
 for i:=range n { c.Models=append(c.Models,charter.Model{ID:fmt.Sprint("m",i),Tier:c.Tiers[i%3].ID,Capabilities:[]string{"chat","tools","vision","json"}})}
 in.Catalog=charter.WithMeta(c,charter.Meta{}).(*charter.Catalog)
 in.Call.Model=asked
 u:=d.inUse.Load()
 b.ReportAllocs()
 for b.Loop(){ if _,err:=u.policy.evaluate(context.Background(),u.inputs.build(in),time.Minute);err!=nil{b.Fatal(err)}}
 })}}
}
